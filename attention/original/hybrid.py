"""The original of `HybridAttention`: no agent, and a local path without refinement.

It differs from the layer of `spangym.attention.original.layer` as follows:

1. attention is not fused: scores of the local path are ``q·k · head_size ** -1/4 / T``, and no path
   is causal;
2. the local path attends once, and is sharper for shorter spans;
3. the global path is `OriginalMultiHeadAttention`;
4. the normalizations are named ``ln_local`` and ``ln_global``, and the local path has projections
   that it does not use.

Of the defects there remain the cut (5), one span for the batch (6), and that masks and
cross-attention input are ignored (3).
"""

from __future__ import annotations

import torch
from torch import nn

from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.original.layer import OriginalDefects, OriginalMultiHeadAttention
from spangym.attention.original.local_path import (
    OriginalSlidingWindowAttention,
    OriginalSpanConfig,
)
from spangym.attention.span_config import SpanConfig


class _UnusedAttention(OriginalMultiHeadAttention):
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights without the generator: the others equal those of `HybridAttention`."""
        del generator
        super().reset_parameters(torch.Generator().manual_seed(0))


class HybridDefects(OriginalDefects):
    """Mixin that gives `HybridAttention` the original's paths and names."""

    default_config = OriginalSpanConfig(
        win_size=32,
        max_span=32,
        temperature_law="shorter",
        num_refinement_steps=1,
        fused=False,
        score_exponent=-0.25,
    )
    ln_local: nn.LayerNorm
    ln_global: nn.LayerNorm

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        config: SpanConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(ctx, dims, head, config, generator=generator)
        # Properties of these names replace them.
        self.ln_local, self.ln_global = (self._modules.pop(name) for name in ("ln_a", "ln_b"))

    def _make_paths(  # type: ignore[override]
        self, config: SpanConfig
    ) -> tuple[SlidingWindowAttention, OriginalMultiHeadAttention]:
        attn_local = OriginalSlidingWindowAttention(self.dims, self.head, config)
        attn_local.multihead_attn = _UnusedAttention(self.dims, self.head)
        return attn_local, OriginalMultiHeadAttention(self.dims, self.head)

    @property
    def ln_a(self) -> nn.LayerNorm:
        """Normalization of the local path's input."""
        return self.ln_local

    @property
    def ln_b(self) -> nn.LayerNorm:
        """Normalization of the global path's input."""
        return self.ln_global
