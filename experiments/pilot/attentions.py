"""The attention of a pilot's models: one for each kind of variant."""

from __future__ import annotations

from torch import Tensor, nn

from spangym.attention import (
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    MultiHeadAttention,
)
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig


class PlainAttention(nn.Module):
    """Standard multi-head attention over normalized input: what all variants are compared with.

    Args:
        dims: Width.
        head: Heads; divides ``dims``.
        causal: Whether a token sees none after it.
    """

    single_span_per_batch = False

    def __init__(self, dims: int, head: int, causal: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(dims)
        self.attention = MultiHeadAttention(dims, head, causal)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, shape (batch, tokens, dims) to the same."""
        return self.attention(self.ln(x))


Attention = PlainAttention | LocalGlobalAttention


def make_attention(
    config: ModelConfig, variant: VariantConfig, ctx: int, causal: bool
) -> Attention:
    """The attention of a block, with weights from torch's global generator.

    Attention of two paths begins as nothing (Zhang et al., Fixup Initialization, 2019), plain
    attention, whose projections are of N(0, 0.02), as next to nothing. Behind a projection of zeros
    a global path of such small weights would hardly be heard beside the local one, so its weights
    are Glorot's: otherwise recognizers learned nothing in the first 400 updates.
    """
    if variant.attention == "standard":
        return PlainAttention(config.dims, variant.heads or config.heads, causal)
    attention = _make_local_global_attention(config, variant, ctx, causal)
    nn.init.zeros_(attention.projection.weight)
    nn.init.zeros_(attention.projection.bias)
    global_attention = attention.attn_global
    for each in (
        global_attention.query_module,
        global_attention.key_module,
        global_attention.value_module,
    ):
        nn.init.xavier_uniform_(each.proj.weight)
    nn.init.xavier_uniform_(global_attention.combiner.out.weight)
    return attention


def _make_local_global_attention(
    config: ModelConfig, variant: VariantConfig, ctx: int, causal: bool
) -> LocalGlobalAttention:
    heads = variant.heads or config.heads
    sizes = (ctx, config.dims, heads, config.max_span, config.win_size, config.max_span)
    if variant.attention == "original":
        return IntegratedAttention.original(
            *sizes, config.temp_scale, temperature_law=variant.temperature_law
        )
    if variant.attention == "hybrid":
        return HybridAttention(
            *sizes,
            config.temp_scale,
            temperature_law=variant.temperature_law,
            causal=causal,
            soft_span=variant.soft_span,
            soft_edge_width=config.soft_edge_width,
            local_projections=config.local_projections,
            num_refinement_steps=config.num_refinement_steps,
        )
    attention_class = FocusAttention if variant.attention == "focus" else IntegratedAttention
    attention = attention_class(
        *sizes,
        config.temp_scale,
        temperature_law=variant.temperature_law,
        causal=causal,
        soft_span=variant.soft_span,
        soft_edge_width=config.soft_edge_width,
        local_projections=config.local_projections,
        num_refinement_steps=config.num_refinement_steps,
        action_scale="absolute",
    )
    if isinstance(attention.attn_global, AdaptiveUpdateAttention):
        # No gradient reaches the predictors of what may be used again.
        attention.attn_global.key_update_predictor.set_always_recompute()
        attention.attn_global.value_update_predictor.set_always_recompute()
    return attention
