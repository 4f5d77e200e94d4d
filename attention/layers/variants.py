"""Relatives of `IntegratedAttention`, built from the same parts."""

from __future__ import annotations

from typing import Any

import torch

from spangym.attention.layers.integrated import IntegratedAttention
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import FOCUS_STEPS, SlidingWindowAttention
from spangym.attention.layers.two_path import TwoPathAttention
from spangym.attention.span_config import SpanOptions, check_sizes


class FocusAttention(IntegratedAttention):
    """`IntegratedAttention` with a plain multi-head global path, which keeps no keys and values.

    The original controlled it by a dense table: ``Refiner(storage="array")``. Arguments are those
    of `IntegratedAttention`.

    Example:
        >>> layer = FocusAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> outcome = layer.outcome(x, action=4)
        >>> outcome.output.shape, outcome.cache.key_value is None
        (torch.Size([2, 48, 32]), True)
    """

    attn_global: MultiHeadAttention  # type: ignore[assignment]
    _global = TwoPathAttention._global

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        return MultiHeadAttention(dims, head, causal)


class HybridAttention(TwoPathAttention):
    """A local path beside a plain multi-head global path; no agent: the predictor decides.

    Args:
        ctx: Longest sequence, in tokens.
        dims: Width of input and output; at least 4.
        head: Number of heads; divides ``dims``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        sharpen_longer: Sharper scores for longer spans (True) or for shorter ones (False).
        causal: Whether a token sees none after it.
        soft_span: Whether the edge of the interval fades out over ``ramp`` tokens, which gives the
            span predictor a gradient.
        ramp: Tokens over which a soft edge fades out.
        local_projections: Whether the local path learns projections of queries, keys and values.
        focus_steps: Most passes of iterative focus, at least 1.
        generator: Source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> layer = HybridAttention(64, 32, 4, sharpen_longer=False)
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape, layer.step(x).window.max().item() <= 32
        (torch.Size([2, 48, 32]), True)
    """

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        max_dist: int = 512,
        win_size: int = 32,
        max_span: int = 384,
        temp_scale: float = 0.01,
        *,
        sharpen_longer: bool = True,
        causal: bool = False,
        soft_span: bool = False,
        ramp: int = 32,
        local_projections: bool = False,
        focus_steps: int = FOCUS_STEPS,
        generator: torch.Generator | None = None,
    ) -> None:
        options = SpanOptions(
            win_size=win_size,
            max_span=max_span,
            max_dist=max_dist,
            temp_scale=temp_scale,
            sharpen=sharpen_longer,
            causal=causal,
            soft_span=soft_span,
            ramp=ramp,
        )
        check_sizes(ctx, dims, head)
        with torch.random.fork_rng(devices=[]):
            attn_local = SlidingWindowAttention(
                head, options, dims if local_projections else None, focus_steps=focus_steps
            )
            attn_global = MultiHeadAttention(dims, head, causal)
        super().__init__(ctx, dims, head, attn_local, attn_global, generator)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            raise AttributeError("HybridAttention has no refiner: its predictor decides the span")
        super().__setattr__(name, value)
