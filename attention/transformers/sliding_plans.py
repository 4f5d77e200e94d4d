"""What the attention layers of a model share in a pass: all that masks and positions decide."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from spangym.attention.geometry import full_qk_pairs
from spangym.attention.kernels.sliding_sinks import SlidingPlan, Window, is_visible, make_plan

T = TypeVar("T")


class SlidingPlans:
    """Windows of sequences, and plans of their blocks, computed once in a pass.

    Masks are boolean (True: attend) or additive, of shape (1 or batch, 1 or heads, queries, keys).

    Args:
        sinks: Number of first unpadded keys that every query sees.
    """

    def __init__(self, sinks: int) -> None:
        self.sinks = sinks
        self._found: dict[Hashable, tuple[Tensor | None, Any]] = {}

    def clear(self) -> None:
        """Begin a pass."""
        self._found.clear()

    def _once(self, name: Hashable, mask: Tensor | None, make: Callable[[], T]) -> T:
        key = (name, id(mask))
        if key not in self._found:
            # The mask is kept with it, so that no other mask has its id.
            self._found[key] = mask, make()
        return self._found[key][1]

    def tokens(self, mask: Tensor) -> Tensor:
        """Which keys are seen by any query, boolean (1 or batch, keys): the others are padding."""
        return self._once("tokens", mask, lambda: is_visible(mask).any(1).any(1))

    def _first_key(self, mask: Tensor) -> Tensor:
        return self.tokens(mask).int().argmax(1)

    def first_key(self, mask: Tensor | None, batch: int) -> Tensor | None:
        """The first unpadded key of each sequence, (batch,), int64; None if it is 0 in all."""

        def find() -> Tensor | None:
            assert mask is not None
            first = self._first_key(mask)
            return first.expand(batch) if first.any() else None

        return None if mask is None else self._once("first of all", mask, find)

    def windows(
        self, spans: Tensor, mask: Tensor | None, causal: bool, queries: int, keys: int
    ) -> dict[Window | None, list[int]]:
        """Sequences by their window; None for those at full span.

        Args:
            spans: Spans on the host, int64 of shape (batch,).
            mask: The model's own mask.
            causal: Whether no query sees a later key if there is no mask.
            queries: Number of queries.
            keys: Number of keys.
        """
        first_keys, rows = [0] * len(spans), {}
        if mask is not None:
            first_keys = self._once("first", mask, lambda: self._first_key(mask).tolist())
            first_keys *= len(spans) // len(first_keys)
            causal = self._once("causal", mask, lambda: _is_causal(mask))
        for row, (span, first) in enumerate(zip(spans.tolist(), first_keys, strict=True)):
            window = Window(span, self.sinks, first, causal or queries == 1)
            rows.setdefault(window if span < keys else None, []).append(row)
        return rows

    def plan(
        self,
        query: Tensor,
        key: Tensor,
        window: Window,
        own_mask: Tensor | None,
        mask: Tensor | None,
        rows: tuple[int, ...],
    ) -> SlidingPlan:
        """Plan of the blocks of some sequences.

        Args:
            query: Queries of these sequences.
            key: Keys of these sequences.
            window: Their window.
            own_mask: Mask of these sequences.
            mask: Mask of all sequences.
            rows: The sequences.
        """
        sizes = (query.shape[2], key.shape[2], window)
        name = (*sizes, query.dtype, None if mask is None else rows)
        return self._once(name, mask, lambda: make_plan(*sizes, own_mask, query.dtype))

    def full_qk_pairs(
        self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Query-key pairs at full span, int64 of shape (1 or batch,)."""
        if mask is not None:
            return self._once(
                "pairs", mask, lambda: self.count_pairs(is_visible(mask)[:, 0].sum(-1), mask)
            )
        queries, keys = query.shape[2], key.shape[2]
        pairs = full_qk_pairs(keys, causal) if queries == keys else queries * keys
        return torch.full((1,), pairs, device=query.device)

    def count_pairs(
        self, seen_keys: Tensor, mask: Tensor | None, rows: list[int] | None = None
    ) -> Tensor:
        """Query-key pairs of unpadded queries, int64 of shape (1 or batch,).

        Right padding sees keys before it, of which nothing is used.

        Args:
            seen_keys: Number of keys that each query sees, int64 of shape (1 or batch, queries).
            mask: Mask of all sequences.
            rows: The sequences; all if None.
        """
        if mask is None:
            return seen_keys.sum(-1)
        is_token = self.tokens(mask)[:, -seen_keys.shape[-1] :]
        if rows is not None and len(is_token) > 1:
            is_token = is_token[rows]
        return (seen_keys * is_token).sum(-1)

    def visible(
        self, query: Tensor, key: Tensor, mask: Tensor | None, spans: Tensor, causal: bool
    ) -> Tensor:
        """Which pairs spans and mask let through, boolean (batch, 1 or heads, queries, keys).

        All on the device of the queries.
        """
        queries, keys = query.shape[2], key.shape[2]
        position = torch.arange(keys, device=query.device)
        distance = position[keys - queries :, None] - position
        span = spans.to(query.device)[:, None, None, None]
        first = 0 if mask is None else self._first_key(mask)[:, None, None, None]
        is_sink = (position >= first) & (position < first + self.sinks)
        visible = (distance < span) & (distance > -span) | is_sink
        if mask is not None:
            return visible & is_visible(mask)
        return visible & (distance >= 0) if causal else visible


def _is_causal(mask: Tensor) -> bool:
    """Whether no query sees a later key; the last query is at the position of the last key."""
    queries, keys = mask.shape[-2:]
    return not is_visible(mask).triu(keys - queries + 1).any()
