"""Integer geometry of the local path: span scale -> windows -> intervals of keys, sequence by sequence.

Each sequence of a batch has a span of its own. Its queries are cut in windows of ``w``
consecutive tokens, and window ``i`` sees the keys ``[max(0, i*w - e), min(i*w + S, N))``, where
``S`` is the span and ``e = S - w`` the reach. Everything here is a pure function of tensors: no
value is read back to the host, so that it runs on an accelerator without a synchronization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NUM_ACTIONS = 10
"""Number of span decisions: action ``a`` asks for the share ``a / 9`` of the predicted span."""


@dataclass(frozen=True)
class SoftEdge:
    """An interval whose edge fades out, so that the span has a gradient.

    A key at distance ``d`` gets its attention weight multiplied by
    ``clamp((span - d) / soft_edge_width + 1, 0, 1)`` before the weights are normalized (Sukhbaatar et al.,
    Adaptive Attention Span in Transformers, 2019, equation 5). Its distance counts tokens from the
    farther end of the window up to the key, both of them too, so that keys within the integer span
    have weight 1. The ``soft_edge_width`` keys beyond either end of the interval are visited too.

    Attributes:
        span: Real-valued span of each sequence in tokens, shape (batch,), floating.
        soft_edge_width: Tokens over which the edge fades out, at least 1.
    """

    span: Tensor
    soft_edge_width: int

    def log_mask(self, key: Tensor, window: Tensor | int, span: Tensor) -> Tensor:
        """What the edge adds to the scores of keys.

        Args:
            key: Position of the keys, from the first query of the window on; any shape.
            window: Queries of the window, broadcastable to ``key``.
            span: Real-valued span, broadcastable to ``key``.

        Returns:
            Logarithm of the weight; where the weight is 0, that of the smallest number.
        """
        distance = torch.maximum(key + 1, window - key)
        weight = (span - distance) / self.soft_edge_width + 1
        return weight.clamp(torch.finfo(weight.dtype).tiny, 1).log()


@dataclass(frozen=True)
class SpanGeometry:
    """Window and span of every sequence, and what else decides which keys a query sees.

    Attributes:
        window: Queries that share one interval of keys, shape (batch,), int64, at least 1.
        span: Keys from the first query of a window on, shape (batch,), int64; at least the window,
            or 0 where the local path of the sequence is off.
        causal: Whether a query sees no key after its own position.
        per_query_convergence: Whether queries of a window are told nothing of one another: each stops focusing by
            itself, where else a window does. Causal ones always are.
        query_lengths: Tokens of each sequence that are no padding, shape (batch,), int64; all if None.
        key_lengths: The same of the keys.
        edge: The soft edge of the intervals; none by default.

    Example:
        >>> spans = SpanGeometry.from_scale(torch.tensor([0.5, 0.0]), win_size=8, max_span=12)
        >>> spans.window.tolist(), spans.span.tolist()
        ([4, 1], [6, 0])
        >>> first, last = spans.intervals(10)
        >>> list(zip(first[0].tolist(), last[0].tolist()))[::4]
        [(0, 6), (2, 10), (6, 10)]
        >>> spans.qk_pairs(10).tolist()
        [64, 0]
    """

    window: Tensor
    span: Tensor
    causal: bool = False
    per_query_convergence: bool = False
    query_lengths: Tensor | None = None
    key_lengths: Tensor | None = None
    edge: SoftEdge | None = None

    def __post_init__(self) -> None:
        if self.causal:
            object.__setattr__(self, "per_query_convergence", True)

    @classmethod
    def from_scale(
        cls, scale: Tensor, *, win_size: int, max_span: int, max_dist: int | None = None
    ) -> SpanGeometry:
        """Turn span scales into windows and spans.

        Args:
            scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1]; 0 turns a sequence off.
            win_size: Window at ``m = 1``, in tokens.
            max_span: Span at ``m = 1``, in tokens, at least ``win_size``.
            max_dist: Upper bound on the span, in tokens, at least ``win_size``; none by default.

        Returns:
            The windows ``max(1, int(win_size * m))`` and spans ``max(1, int(max_span * m))``.
        """
        # float64, as Python multiplies: float32 would round 0.7 * 10 up to 7 where int() gives 6.
        exact = scale.detach().double()
        window = (exact * win_size).long().clamp_min(1)
        span = (exact * max_span).long().clamp(1, max_dist)
        return cls(window, torch.where(exact > 0, span, 0))

    @classmethod
    def full(cls, like: SpanGeometry, tokens: int) -> SpanGeometry:
        """Spans that see every key, but for what causality and padding hide.

        Args:
            like: Where those, the number of sequences and the device are taken from.
            tokens: Most tokens of a sequence, queries or keys.
        """
        everything = torch.full_like(like.span, tokens)
        return replace(like, window=everything, span=everything, edge=None)

    def select(self, index: int) -> SpanGeometry:
        """The spans of one sequence alone."""
        one = slice(index, index + 1)
        edge = self.edge
        return replace(
            self,
            window=self.window[one],
            span=self.span[one],
            query_lengths=None if self.query_lengths is None else self.query_lengths[one],
            key_lengths=None if self.key_lengths is None else self.key_lengths[one],
            edge=None if edge is None else SoftEdge(edge.span[one], edge.soft_edge_width),
        )

    @property
    def soft_margin(self) -> int:
        """Keys beyond either end of an interval that a soft edge lets through."""
        return 0 if self.edge is None else self.edge.soft_edge_width

    def window_starts(self, tokens: int) -> Tensor:
        """First position of each token's window, shape (batch, tokens), int64."""
        position = torch.arange(tokens, device=self.window.device)
        return position - position.remainder(self.window[:, None])

    def intervals(self, queries: int, keys: int | None = None) -> tuple[Tensor, Tensor]:
        """First key and end of the interval that each query sees.

        Args:
            queries: Length ``N`` of the sequences.
            keys: Length of the sequences that the keys come from; the same if None.

        Returns:
            ``first`` and ``end`` (exclusive), each of shape (batch, queries), int64; both 0 for a
            query that sees nothing.
        """
        keys = queries if keys is None else keys
        start = self.window_starts(queries)
        span = self.span[:, None] + self.soft_margin
        first = (start - span + self.window[:, None]).clamp_min(0)
        end = (start + span).clamp_max(keys)
        if self.key_lengths is not None:
            end = torch.minimum(end, self.key_lengths[:, None])
        position = torch.arange(queries, device=start.device)
        if self.causal:
            end = torch.minimum(end, position + 1)
        sees = (self.span[:, None] > 0) & (first < end)
        if self.query_lengths is not None:
            sees = sees & (position < self.query_lengths[:, None])
        return torch.where(sees, first, 0), torch.where(sees, end, 0)

    def log_masks(self, queries: int, keys: int, rows: slice) -> Tensor | None:
        """What a soft edge adds to the scores, shape (batch, rows, keys); None without one."""
        if self.edge is None:
            return None
        start = self.window_starts(queries)[:, rows, None]
        key = torch.arange(keys, device=start.device) - start
        return self.edge.log_mask(key, self.window[:, None, None], self.edge.span[:, None, None])

    def qk_pairs(self, queries: int, keys: int | None = None) -> Tensor:
        """Query-key pairs scored in one pass, shape (batch,), int64."""
        first, end = self.intervals(queries, keys)
        return (end - first).sum(-1)
