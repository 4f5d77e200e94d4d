"""Sizes of pretrained models, read from their configurations without loading weights."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from spangym.attention.span_config import SpanConfig
from spangym.utils.readable_repr import readable_repr


class PretrainedSizes(NamedTuple):
    """Sizes of a pretrained model.

    Attributes:
        num_layers: Number of layers.
        dims: Width.
        heads: Attention heads of a layer.
        ctx: Longest sequence, in tokens.
    """

    __repr__ = readable_repr

    num_layers: int
    dims: int
    heads: int
    ctx: int


BUILTIN_SIZES = {"smollm2-135m": PretrainedSizes(30, 576, 9, 8192)}
"""Sizes of models that need not be there to describe their environments."""

_UNBOUNDED = 2**20


def sizes_of(config: Any) -> PretrainedSizes:
    """Read the sizes from a ``transformers.PreTrainedConfig``."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or _UNBOUNDED
    return PretrainedSizes(
        text.num_hidden_layers, text.hidden_size, text.num_attention_heads, positions
    )


@functools.lru_cache(maxsize=32)
def read_sizes(name: str) -> PretrainedSizes:
    """Read the sizes of a model by name, a folder or the id of a model on a hub.

    Raises:
        ValueError: The extra ``transformers`` is not installed, or there is no such model.
    """
    if name in BUILTIN_SIZES:
        return BUILTIN_SIZES[name]
    from spangym.attention.transformers.load_model import load_config

    return sizes_of(load_config(name))


def group_span_config(ctx: int, causal: bool) -> SpanConfig:
    """Return the span options of layer groups: each query is a window of its own."""
    return SpanConfig(
        win_size=1,
        max_span=ctx,
        max_dist=ctx,
        causal=causal,
        action_scale="absolute",
        num_refinement_steps=1,
        global_path="none",
    )


def past_pairs(ctx: int, num_blocks: int, index: int) -> int:
    """Return the pairs of the queries of block ``index + 1`` and of all tokens before it."""
    block = ctx // num_blocks
    return block * block * (index + 1)
