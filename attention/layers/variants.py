"""Variants of `IntegratedAttention` made of the same parts."""

from __future__ import annotations

from typing import Any

from spangym.attention.layers.integrated import IntegratedAttention
from spangym.attention.layers.local_global import LocalGlobalAttention
from spangym.attention.span_config import SpanConfig


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


class HybridAttention(LocalGlobalAttention):
    """A local path next to a plain multi-head global path; the predictor alone sets the span.

    The default configuration has windows of 32 tokens.

    Example:
        >>> import torch
        >>> layer = HybridAttention(64, 32, 4)
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape, layer.step(x).window.max().item() <= 32
        (torch.Size([2, 48, 32]), True)
    """

    default_config = SpanConfig(win_size=32)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            raise AttributeError("HybridAttention has no refiner: its predictor sets the span")
        super().__setattr__(name, value)
