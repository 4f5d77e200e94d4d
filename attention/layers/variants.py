"""Variants of `IntegratedAttention` made of the same parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch

from spangym.attention.layers.integrated import IntegratedAttention
from spangym.attention.layers.local_global import LocalGlobalAttention
from spangym.attention.original.focus import FocusDefects
from spangym.attention.original.hybrid import HybridDefects
from spangym.attention.span_config import ActionScale, SpanConfig
from spangym.attention.temperature import TemperatureLaw


class FocusAttention(IntegratedAttention):
    """`IntegratedAttention` with a plain multi-head global path, without a key-value cache.

    The original controlled it with a dense Q-table; `spangym.agents.Refiner` has sparse rows with
    the same values.

    Example:
        >>> import torch
        >>> layer = FocusAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer_output = layer.forward_with_action(x, action=4)
        >>> layer_output.output.shape, layer_output.cache.key_value is None
        (torch.Size([2, 48, 32]), True)
    """

    _make_paths = LocalGlobalAttention._make_paths


class OriginalFocusAttention(FocusDefects, FocusAttention):
    """`FocusAttention` with the original's defects, made by `FocusAttention.original`."""


FocusAttention.original_class = OriginalFocusAttention


class HybridAttention(LocalGlobalAttention):
    """A local path next to a plain multi-head global path; the predictor alone sets the span.

    By default windows and spans are at most 32 tokens, the local path attends once, and it is
    sharper for shorter spans.

    Example:
        >>> import torch
        >>> layer = HybridAttention(64, 32, 4)
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape, layer.step(x).window.max().item() <= 32
        (torch.Size([2, 48, 32]), True)
    """

    default_config = SpanConfig(
        win_size=32, max_span=32, temperature_law="shorter", num_refinement_steps=1
    )

    @classmethod
    def original(
        cls,
        ctx: int,
        dims: int,
        head: int,
        max_dist: int = 512,
        win_size: int = 32,
        max_span: int = 32,
        temp_scale: float = 0.01,
        *,
        temperature_law: TemperatureLaw = "shorter",
        action_scale: ActionScale = "relative",
        fused: bool | None = None,
        fixes: str | Iterable[str] = (),
        generator: torch.Generator | None = None,
    ) -> Self:
        """Make the original of this class (`spangym.attention.original.hybrid`).

        Arguments are those of `IntegratedAttention.original`. The original is not fused.

        Raises:
            TypeError: A subclass has no original.
            ValueError: An argument breaks its rule.
        """
        options = {
            "win_size": win_size,
            "max_span": max_span,
            "max_dist": max_dist,
            "temp_scale": temp_scale,
            "temperature_law": temperature_law,
            "action_scale": action_scale,
            "fixes": fixes,
        }
        return cls._make_original(ctx, dims, head, fused, options, generator=generator)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            raise AttributeError("HybridAttention has no refiner: its predictor sets the span")
        super().__setattr__(name, value)


class OriginalHybridAttention(HybridDefects, HybridAttention):
    """`HybridAttention` with the original's defects, made by `HybridAttention.original`."""


HybridAttention.original_class = OriginalHybridAttention
