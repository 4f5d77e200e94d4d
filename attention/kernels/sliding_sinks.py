"""Sliding windows with attention sinks: every query reads its last keys and the first ones.

A query at position ``q`` sees a key at ``k`` if ``|q - k| < span`` or the key is a sink, one of the
first keys of the sequence (Xiao et al., Efficient Streaming Language Models with Attention Sinks,
2024). The last query is at the position of the last key. Blocks of queries are scored against the
keys that one of them sees, so the cost is proportional to the span. What depends on positions and
masks only is a plan that the layers of a model share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spangym.attention.kernels.reference import to_additive_mask

_BLOCK = (64, 256)
"""Bounds of the number of queries of a block, which otherwise is the span."""


@dataclass(frozen=True)
class Window:
    """What a query may see, within the model's own mask.

    Attributes:
        span: Queries see keys at smaller distances than this, in tokens, at least 1.
        sinks: Number of first keys that every query sees.
        first_key: Index of the first key that is not padding.
        causal: Whether a query sees no later key.
    """

    span: int
    sinks: int = 0
    first_key: int = 0
    causal: bool = True

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether queries at these positions see keys at these, boolean, broadcast together."""
        distance = query - key
        is_near = distance < self.span
        is_sink = (key >= self.first_key) & (key < self.first_key + self.sinks)
        if self.causal:
            return (is_near | is_sink) & (distance >= 0)
        return is_near & (distance > -self.span) | is_sink


@dataclass(frozen=True)
class QueryBlock:
    """Consecutive queries, and the keys that one of them sees.

    Attributes:
        queries: The queries.
        keys: Consecutive keys.
        sinks: Keys before them; None if ``keys`` hold them.
        bias: What is added to the scores, shape (1 or batch, 1 or heads, queries, keys).
    """

    queries: slice
    keys: slice
    sinks: slice | None
    bias: Tensor

    def select(self, x: Tensor) -> Tensor:
        """Keys or values of the block, shape (batch, heads, keys of the block, head size)."""
        near = x[:, :, self.keys]
        return near if self.sinks is None else torch.cat([x[:, :, self.sinks], near], dim=2)


@dataclass(frozen=True)
class SlidingPlan:
    """Blocks of the queries of a batch, and what they count.

    Attributes:
        blocks: The blocks.
        seen_keys: Number of keys that each query sees, int64 of shape (1 or batch, queries).
    """

    blocks: tuple[QueryBlock, ...]
    seen_keys: Tensor


def make_plan(
    queries: int, keys: int, window: Window, mask: Tensor | None, dtype: torch.dtype
) -> SlidingPlan:
    """Cut queries into blocks.

    Args:
        queries: Number of queries, at most ``keys``.
        keys: Number of keys.
        window: What a query sees.
        mask: Boolean (True: attend) or additive mask of shape (1 or batch, 1 or heads, queries,
            keys); None for none.
        dtype: Floating type of the scores.
    """
    blocks, seen_keys = [], []
    shared: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for queries_of, keys_of, sinks in _cut(queries, keys, window):
        # Blocks away from the start have equal masks.
        key = (queries_of.stop - queries_of.start, keys_of.stop - keys_of.start)
        key = (*key, queries_of.start - keys_of.start, -1 if sinks is None else sinks.start)
        if mask is None and sinks is not None and key in shared:
            bias, seen = shared[key]
        else:
            visible = _visible(queries_of, keys_of, sinks, keys - queries, window)
            own_mask = None if mask is None else _mask_part(mask, queries_of, keys_of, sinks)
            bias, seen = _combine(visible, own_mask, dtype)
            shared[key] = bias, seen
        blocks.append(QueryBlock(queries_of, keys_of, sinks, bias))
        seen_keys.append(seen)
    return SlidingPlan(tuple(blocks), torch.cat(seen_keys, dim=1))


def _cut(queries: int, keys: int, window: Window) -> Iterator[tuple[slice, slice, slice | None]]:
    """Queries, keys and sinks of each block."""
    size = min(max(window.span, _BLOCK[0]), _BLOCK[1])
    offset, last_sink = keys - queries, min(window.first_key + window.sinks, keys)
    for start in range(0, queries, size):
        end = min(start + size, queries)
        first = max(0, offset + start - window.span + 1)
        last = offset + end
        if not window.causal:
            last = min(max(last + window.span - 1, last_sink), keys)
        sinks = None
        if first > last_sink and window.sinks:
            sinks = slice(window.first_key, last_sink)
        elif window.sinks:
            first = min(first, window.first_key)
        yield slice(start, end), slice(first, last), sinks


def _positions(keys: slice, sinks: slice | None) -> Tensor:
    near = torch.arange(keys.start, keys.stop)
    return near if sinks is None else torch.cat([torch.arange(sinks.start, sinks.stop), near])


def _visible(
    queries: slice, keys: slice, sinks: slice | None, offset: int, window: Window
) -> Tensor:
    query = torch.arange(offset + queries.start, offset + queries.stop)[:, None]
    return window.visible(query, _positions(keys, sinks))[None, None]


def _mask_part(mask: Tensor, queries: slice, keys: slice, sinks: slice | None) -> Tensor:
    rows = mask[:, :, queries]
    near = rows[..., keys]
    return near if sinks is None else torch.cat([rows[..., sinks], near], dim=-1)


def _combine(visible: Tensor, mask: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bias of the scores, and how many keys each query sees in the first head."""
    if mask is None:
        bias = to_additive_mask(visible, dtype)
    elif mask.dtype == torch.bool:
        visible = visible & mask
        bias = to_additive_mask(visible, dtype)
    else:
        bias = to_additive_mask(visible, dtype) + mask.to(dtype)
        visible = visible & is_visible(mask)
    return bias, visible[:, 0].sum(-1)


def is_visible(mask: Tensor) -> Tensor:
    """Which pairs a mask lets through, boolean; additive masks hide with very low numbers."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: SlidingPlan, *, scale: float | None, dropout: float = 0.0
) -> Tensor:
    """Attention of every query over the keys of its block.

    Args:
        q: Queries, shape (batch, heads, queries, head size).
        k: Keys, shape (batch, key heads, keys, head size); consecutive heads of the queries share
            one head of the keys.
        v: Values, shape (batch, key heads, keys, value size).
        plan: Plan for these numbers of queries and keys.
        scale: Factor of the scores; ``head size ** -0.5`` if None.
        dropout: Probability with which a weight is dropped.

    Returns:
        Shape (batch, heads, queries, value size); 0 for queries that see no key.
    """
    batch, heads, queries, size = q.shape
    key_heads = k.shape[1]
    shared = heads // key_heads
    # The queries that share a head of the keys are rows of one product.
    grouped = q.view(batch, key_heads, shared, queries, size)
    outputs = []
    for block in plan.blocks:
        own = grouped[:, :, :, block.queries].flatten(2, 3)
        out = nn.functional.scaled_dot_product_attention(
            own,
            block.select(k),
            block.select(v),
            attn_mask=_by_key_head(block.bias, key_heads, shared),
            dropout_p=dropout,
            scale=scale,
        )
        outputs.append(out.unflatten(2, (shared, -1)))
    return torch.cat(outputs, dim=3).flatten(1, 2)


def _by_key_head(bias: Tensor, key_heads: int, shared: int) -> Tensor:
    """The bias with the rows of the queries that share a head of the keys."""
    if shared == 1:
        return bias
    if bias.shape[1] == 1:
        return bias.expand(-1, shared, -1, -1).flatten(1, 2)[:, None]
    return bias.unflatten(1, (key_heads, shared)).flatten(2, 3)
