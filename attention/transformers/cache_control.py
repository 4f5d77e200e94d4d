"""Attention to the keys of a cache within the span, and what happens to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spangym.attention.kernels.sliding_sinks import is_visible
from spangym.attention.transformers.span_cache import SpanCacheLayer
from spangym.attention.transformers.span_choosers import FULL_SPAN

CacheMode = Literal["read", "trim"]


@dataclass(frozen=True)
class CacheControl:
    """What all layers do with their caches.

    Attributes:
        mode: ``read``: keys outside the span are skipped; ``trim``: they are dropped.
        interval: Tokens between decisions.
        sinks: Number of first unpadded keys that every query sees.
    """

    mode: CacheMode
    interval: int
    sinks: int

    def attend(
        self,
        cache: SpanCacheLayer,
        query: Tensor,
        mask: Tensor | None,
        span: int | Tensor,
        position_bias: Tensor | None,
        attend_fully: Callable[..., tuple[Tensor, None]],
    ) -> tuple[Tensor, Tensor]:
        """Attention of the last queries to keys of a cache.

        Args:
            cache: The cache, which holds the keys of these queries.
            query: Shape (batch, heads, queries, head size).
            mask: The model's own mask, boolean or additive, shape (1 or batch, 1 or heads, queries,
                keys); None if it hides nothing.
            span: Span of all sequences, or of each, shape (batch,), int64.
            position_bias: Added to the scores, shape (1 or batch, heads, queries, keys).
            attend_fully: Attention function, called with queries, keys, values and a mask.

        Returns:
            Query-key pairs, int64 of shape (batch,), and the output.
        """
        batch, _, queries, _ = query.shape
        has_mask = mask is not None or position_bias is not None
        held = cache.select(queries, span, self.sinks, has_mask)
        if held.positions is None:
            pairs = torch.full((batch,), held.keys.shape[2], device=query.device)
            return pairs, attend_fully(query, held.keys, held.values, None)[0]
        visible = cache.visible(held.positions, queries, span, self.sinks)[:, None]
        own_mask = visible
        if mask is not None:
            columns = held.positions - (cache.num_tokens - mask.shape[-1])
            own_mask = _columns(mask, columns)
            # Columns that the mask does not have are outside the native window.
            visible = visible & (columns >= 0)[:, None, None] & is_visible(own_mask)
            is_additive = own_mask.dtype != torch.bool
            own_mask = own_mask.masked_fill(~visible, -torch.inf) if is_additive else visible
        bias = {}
        if position_bias is not None:
            bias["position_bias"] = _columns(position_bias, held.positions)
        pairs = visible[:, 0].sum((-2, -1)).expand(batch)
        return pairs, attend_fully(query, held.keys, held.values, own_mask, **bias)[0]

    def after_attention(self, cache: SpanCacheLayer, span: int | Tensor) -> None:
        """Drop the keys that no later query sees."""
        if self.mode == "trim":
            cache.trim(span, self.sinks)
        elif cache.is_sliding:
            cache.trim(FULL_SPAN, self.sinks)


def common_span(spans: Tensor) -> int | Tensor:
    """The span of all sequences as a number; those of each, shape (batch,), if they differ."""
    first, *others = spans.tolist()
    return first if all(each == first for each in others) else spans


def _columns(x: Tensor, columns: Tensor) -> Tensor:
    """Columns of a mask by sequence, any for negative ones.

    Args:
        x: Shape (1 or batch, 1 or heads, queries, keys).
        columns: Shape (1 or batch, columns).
    """
    columns = columns.clamp(min=0)
    if len(columns) == 1:
        return x.index_select(-1, columns[0])
    return x.take_along_dim(columns[:, None, None], dim=-1)
