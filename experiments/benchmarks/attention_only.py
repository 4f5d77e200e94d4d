"""The attention of a pretrained model without the rest of it, to measure it alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def head_sizes(config: LlamaConfig) -> tuple[int, int, int]:
    """Number of heads, of key-value heads, and the size of a head."""
    heads = config.num_attention_heads
    size = config.head_dim or config.hidden_size // heads
    return heads, config.num_key_value_heads or heads, size


class AttentionOnlyModel(PreTrainedModel):
    """Calls the attention function once for each layer, with given queries, keys and values.

    Args:
        config: Numbers of layers and heads, and the size of a head.
        tokens: Number of tokens.
    """

    config_class = LlamaConfig
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: LlamaConfig, tokens: int) -> None:
        super().__init__(config)
        layers = (AttentionOnly(config) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(1, *shape, generator=generator)

        heads, key_heads, size = head_sizes(config)
        self.states = (
            normal(heads, tokens, size),
            normal(key_heads, tokens, size),
            normal(key_heads, tokens, size),
        )
        self.hidden_states = normal(tokens, config.hidden_size)

    def forward(self) -> tuple[Tensor, ...]:
        """Attend in all layers; returns the output of the last one."""
        output = self.states[0]
        for layer in self.layers:
            output = layer(self.hidden_states, *self.states)
        return (output,)


class AttentionOnly(nn.Module):
    """A causal attention layer without projections."""

    is_causal = True

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        heads, key_heads, _ = head_sizes(config)
        self.num_key_value_groups = heads // key_heads

    def forward(self, hidden_states: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; ``hidden_states`` are what controllers observe."""
        del hidden_states
        name: Any = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, sdpa_attention_forward)
        return attend(self, query, key, value, None)[0]
