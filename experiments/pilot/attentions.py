"""The attention of a pilot's models: one for each kind of variant."""

from __future__ import annotations

from torch import Tensor, nn

from spangym.attention import (
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    MultiHeadAttention,
    TwoPathAttention,
)
from spangym.experiments.pilot.pilot_study import ModelEntry, VariantEntry


class PlainAttention(nn.Module):
    """Standard multi-head attention over normalised input: what all variants are compared with.

    Args:
        dims: Width.
        head: Heads; divides ``dims``.
        causal: Whether a token sees none after it.
    """

    batch_is_one = False

    def __init__(self, dims: int, head: int, causal: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(dims)
        self.attention = MultiHeadAttention(dims, head, causal)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, shape (lanes, tokens, dims) to the same."""
        return self.attention(self.ln(x))


Attention = PlainAttention | TwoPathAttention


def make_attention(entry: ModelEntry, variant: VariantEntry, ctx: int, causal: bool) -> Attention:
    """The attention of a block, with weights from torch's global generator.

    Attention of two paths begins as nothing (Zhang et al., Fixup Initialization, 2019), plain
    attention, whose projections are of N(0, 0.02), as next to nothing. Behind a projection of zeros
    a global path of such small weights would hardly be heard beside the local one, so its weights
    are Glorot's: otherwise recognisers learnt nothing in the first 400 updates.
    """
    if variant.attention == "standard":
        return PlainAttention(entry.dims, variant.heads or entry.heads, causal)
    attention = _make_two_path(entry, variant, ctx, causal)
    nn.init.zeros_(attention.projection.weight)
    nn.init.zeros_(attention.projection.bias)
    whole = attention.attn_global
    for each in (whole.query_module, whole.key_module, whole.value_module):
        nn.init.xavier_uniform_(each.proj.weight)
    nn.init.xavier_uniform_(whole.combiner.out.weight)
    return attention


def _make_two_path(
    entry: ModelEntry, variant: VariantEntry, ctx: int, causal: bool
) -> TwoPathAttention:
    heads = variant.heads or entry.heads
    sizes = (ctx, entry.dims, heads, entry.max_span, entry.win_size, entry.max_span)
    if variant.attention == "original":
        return IntegratedAttention.original(*sizes, entry.temp_scale, sharpen=variant.sharpen)
    if variant.attention == "hybrid":
        return HybridAttention(
            *sizes,
            entry.temp_scale,
            sharpen_longer=variant.sharpen,
            causal=causal,
            soft_span=variant.soft_span,
            ramp=entry.ramp,
            local_projections=entry.local_projections,
            focus_steps=entry.focus_steps,
        )
    kind = FocusAttention if variant.attention == "focus" else IntegratedAttention
    attention = kind(
        *sizes,
        entry.temp_scale,
        sharpen=variant.sharpen,
        causal=causal,
        soft_span=variant.soft_span,
        ramp=entry.ramp,
        local_projections=entry.local_projections,
        focus_steps=entry.focus_steps,
        action_scale="absolute",
    )
    if isinstance(attention.attn_global, AdaptiveUpdateAttention):
        # No gradient reaches the predictors of what may be used again.
        attention.attn_global.key_update_predictor.always()
        attention.attn_global.value_update_predictor.always()
    return attention
