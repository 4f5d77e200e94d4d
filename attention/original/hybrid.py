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

from typing import cast

import torch
from torch import nn

from spangym.attention.layers.local_global import Paths
from spangym.attention.original.layer import OriginalMultiHeadAttention, OriginalPlainDefects
from spangym.attention.original.truncation import OriginalSpanConfig
from spangym.attention.span_config import SpanConfig


class _UnusedAttention(OriginalMultiHeadAttention):
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights without the generator: the others equal those of `HybridAttention`."""
        del generator
        super().reset_parameters(torch.Generator().manual_seed(0))


class HybridDefects(OriginalPlainDefects):
    """Mixin that gives `HybridAttention` the original's paths and names."""

    default_config = OriginalSpanConfig(
        win_size=32,
        max_span=32,
        temperature_law="shorter",
        num_refinement_steps=1,
        fused=False,
        score_exponent=-0.25,
    )

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
        self.ln_local = cast(nn.LayerNorm, self._modules.pop("ln_a"))
        self.ln_global = cast(nn.LayerNorm, self._modules.pop("ln_b"))

    def _make_paths(self, config: SpanConfig) -> Paths:
        attn_local, attn_global = super()._make_paths(config)
        attn_local.multihead_attn = _UnusedAttention(self.dims, self.head)
        return attn_local, attn_global

    @property
    def ln_a(self) -> nn.LayerNorm:
        """Normalization of the local path's input."""
        return self.ln_local

    @property
    def ln_b(self) -> nn.LayerNorm:
        """Normalization of the global path's input."""
        return self.ln_global
