"""The attention of a pilot's models, by variant."""

from __future__ import annotations

from torch import Tensor, nn

from spangym.attention import (
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    MultiHeadAttention,
    SpanConfig,
)
from spangym.attention.layers.decoding_cache import GlobalDecodingCache
from spangym.attention.layers.modules import init_linear
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig


class PlainAttention(nn.Module):
    """Multi-head attention over normalized input: the baseline of every pilot."""

    single_span_per_batch = False

    def __init__(self, dims: int, head: int, causal: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(dims)
        self.attention = MultiHeadAttention(dims, head, causal)
        init_linear(self.attention.combiner.out)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; input and output have shape (batch, tokens, dims)."""
        return self.attention(self.ln(x))

    def decode(
        self, x: Tensor, cache: GlobalDecodingCache | None = None
    ) -> tuple[Tensor, GlobalDecodingCache]:
        """Attend from the next tokens of a text; see `MultiHeadAttention.decode`."""
        return self.attention.decode(self.ln(x), cache)

    def weights(self, x: Tensor) -> Tensor:
        """Return the attention weights, shape (batch, heads, queries, keys)."""
        return self.attention.weights(self.ln(x), None, None, None)


Attention = PlainAttention | LocalGlobalAttention

_CLASSES = {"hybrid": HybridAttention, "focus": FocusAttention, "integrated": IntegratedAttention}


def make_attention(
    config: ModelConfig, variant: VariantConfig, ctx: int, causal: bool
) -> Attention:
    """Make the attention of a block, with weights from torch's global generator.

    The output projection of local-global attention starts at zero (Zhang et al., Fixup
    Initialization, 2019). Plain attention starts close to zero, with queries, keys and values of
    N(0, 0.02) and PyTorch's default output projection.
    The global path of local-global attention starts with Glorot weights: with N(0, 0.02) the zero
    projection hardly saw it next to the local path, and recognizers learned nothing in the first
    400 updates.
    """
    heads = variant.heads or config.heads
    if variant.attention == "standard":
        return PlainAttention(config.dims, heads, causal)
    sizes = (ctx, config.dims, heads)
    span_config = SpanConfig(
        win_size=config.win_size,
        max_span=config.max_span,
        max_dist=config.max_span,
        temp_scale=config.temp_scale,
        temperature_law=variant.temperature_law,
        causal=causal,
        soft_span=variant.soft_span,
        soft_edge_width=config.soft_edge_width,
        action_scale="absolute",
        local_projections=config.local_projections,
        num_refinement_steps=config.num_refinement_steps,
        global_path=variant.global_path,
        pool=variant.pool,
    )
    if variant.attention == "original":
        attention = IntegratedAttention.original(
            *sizes,
            max_dist=config.max_span,
            win_size=config.win_size,
            max_span=config.max_span,
            temp_scale=config.temp_scale,
            temperature_law=variant.temperature_law,
        )
    else:
        attention = _CLASSES[variant.attention](*sizes, span_config)
    nn.init.zeros_(attention.projection.weight)
    nn.init.zeros_(attention.projection.bias)
    global_path = attention.attn_global
    if global_path is None:
        return attention
    for module in (global_path.query_module, global_path.key_module, global_path.value_module):
        nn.init.xavier_uniform_(module.proj.weight)
    nn.init.xavier_uniform_(global_path.combiner.out.weight)
    return attention
