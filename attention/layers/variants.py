"""Relatives of `IntegratedAttention`, built from the same parts."""

from __future__ import annotations

from typing import Any

import torch

from spangym.attention.layers.integrated import IntegratedAttention
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import MAX_REFINEMENT_STEPS, SlidingWindowAttention
from spangym.attention.layers.two_path import LocalGlobalAttention
from spangym.attention.span_config import SpanConfig, check_sizes
from spangym.attention.temperature import TemperatureLaw


class FocusAttention(IntegratedAttention):
    """`IntegratedAttention` with a plain multi-head global path, which keeps no keys and values.

    The original controlled it by a dense Q-table; `spangym.agents.Refiner` has sparse rows with
    the same values. Arguments are those
    of `IntegratedAttention`.

    Example:
        >>> layer = FocusAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> outcome = layer.forward_with_action(x, action=4)
        >>> outcome.output.shape, outcome.cache.key_value is None
        (torch.Size([2, 48, 32]), True)
    """

    attn_global: MultiHeadAttention  # type: ignore[assignment]
    _global = LocalGlobalAttention._global

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        return MultiHeadAttention(dims, head, causal)


class HybridAttention(LocalGlobalAttention):
    """A local path beside a plain multi-head global path; no agent: the predictor decides.

    Args:
        ctx: Longest sequence, in tokens.
        dims: Width of input and output; at least 4.
        head: Number of heads; divides ``dims``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        temperature_law: Name of the temperature law: see `spangym.attention.temperature`.
        causal: Whether a token sees none after it.
        soft_span: Whether the edge of the interval fades out over ``soft_edge_width`` tokens, which gives the
            span predictor a gradient.
        soft_edge_width: Tokens over which a soft edge fades out.
        local_projections: Whether the local path learns projections of queries, keys and values.
        num_refinement_steps: Most passes of iterative focus, at least 1.
        generator: Source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> layer = HybridAttention(64, 32, 4, temperature_law="shorter")
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
        temperature_law: TemperatureLaw = "longer",
        causal: bool = False,
        soft_span: bool = False,
        soft_edge_width: int = 32,
        local_projections: bool = False,
        num_refinement_steps: int = MAX_REFINEMENT_STEPS,
        generator: torch.Generator | None = None,
    ) -> None:
        options = SpanConfig(
            win_size=win_size,
            max_span=max_span,
            max_dist=max_dist,
            temp_scale=temp_scale,
            temperature_law=temperature_law,
            causal=causal,
            soft_span=soft_span,
            soft_edge_width=soft_edge_width,
        )
        check_sizes(ctx, dims, head)
        with torch.random.fork_rng(devices=[]):
            attn_local = SlidingWindowAttention(
                head,
                options,
                dims if local_projections else None,
                num_refinement_steps=num_refinement_steps,
            )
            attn_global = MultiHeadAttention(dims, head, causal)
        super().__init__(ctx, dims, head, attn_local, attn_global, generator)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            raise AttributeError("HybridAttention has no refiner: its predictor decides the span")
        super().__setattr__(name, value)
