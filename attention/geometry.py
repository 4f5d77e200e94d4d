"""Integer geometry of the local path: from span scales to windows and intervals of keys.

Each sequence of a batch has its own span. Its queries are cut in windows of ``w`` consecutive
tokens. Window ``i`` sees the keys ``[max(0, i*w - e), min(i*w + S, N))``, with the span ``S`` and
the reach ``e = S - w``. All functions are pure functions of tensors without host reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spangym.utils.readable_repr import readable_repr

NUM_ACTIONS = 10
"""The original's number of actions; ``a`` asks for the fraction ``a / (NUM_ACTIONS - 1)``."""

MAX_ACTIONS = 1000
"""Largest number of actions: lookahead runs a layer for each of them."""


def full_qk_pairs(tokens: int, causal: bool) -> int:
    """Query-key pairs of one pass of full self-attention over so many tokens."""
    return tokens * (tokens + 1) // 2 if causal else tokens**2


@dataclass(frozen=True)
class SoftEdge:
    """An interval whose edge fades out, so that the span has a gradient.

    The attention weight of a key at distance ``d`` is multiplied by
    ``clamp((span - d) / soft_edge_width + 1, 0, 1)`` before the weights are normalized (Sukhbaatar
    et al., Adaptive Attention Span in Transformers, 2019, equation 5). The distance counts tokens
    from the farther end of the window to the key, both included: keys within the integer span have
    weight 1. The ``soft_edge_width`` keys beyond either end of the interval are scored too.

    Attributes:
        span: Real-valued span of each sequence in tokens, shape (batch,), floating.
        soft_edge_width: Tokens over which the edge fades out, at least 1.
    """

    __repr__ = readable_repr

    span: Tensor
    soft_edge_width: int

    def log_mask(self, key: Tensor, window: Tensor | int, span: Tensor) -> Tensor:
        """Logarithm of the weight of keys, to be added to their scores; never below log(tiny).

        Args:
            key: Position of the keys relative to the first query of the window, any shape.
            window: Length of the window, broadcastable to ``key``.
            span: Real-valued span, broadcastable to ``key``.
        """
        distance = torch.maximum(key + 1, window - key)
        weight = (span - distance) / self.soft_edge_width + 1
        return weight.clamp(torch.finfo(weight.dtype).tiny, 1).log()


@dataclass(frozen=True)
class SpanGeometry:
    """Window and span of each sequence, and what else decides which keys a query sees.

    Attributes:
        window: Queries that share one interval of keys, shape (batch,), int64, at least 1.
        span: Keys from the first query of a window on, shape (batch,), int64; at least the window,
            or 0 where the local path of the sequence is off.
        causal: Whether a query sees no key after its own position.
        per_query_convergence: Whether each query stops refining by itself, independently of its
            window. Always true if ``causal``.
        query_lengths: Number of unpadded queries of each sequence, shape (batch,), int64; all if
            None.
        key_lengths: Number of unpadded keys, likewise.
        edge: Soft edge of the intervals; none by default.

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

    __repr__ = readable_repr

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
        """Windows ``max(1, int(win_size * m))`` and spans ``max(1, int(max_span * m))``.

        Args:
            scale: Span scale ``m`` of each sequence, shape (batch,), in [0, 1]; 0 turns it off.
            win_size: Window at ``m = 1``, in tokens.
            max_span: Span at ``m = 1``, in tokens, at least ``win_size``.
            max_dist: Upper bound of the span, in tokens, at least ``win_size``; none by default.
        """
        # float64, as in Python: float32 rounds 0.7 * 10 up to 7 where int() gives 6.
        exact = scale.detach().double()
        window = (exact * win_size).long().clamp_min(1)
        span = (exact * max_span).long().clamp(1, max_dist)
        return cls(window, torch.where(exact > 0, span, 0))

    @classmethod
    def full(cls, like: SpanGeometry, tokens: int) -> SpanGeometry:
        """`like` with spans of all keys of sequences of up to ``tokens`` queries or keys."""
        everything = torch.full_like(like.span, tokens)
        return replace(like, window=everything, span=everything, edge=None)

    def select(self, index: int) -> SpanGeometry:
        """The spans of one sequence, as a batch of 1."""

        def one(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index : index + 1]

        return replace(
            self,
            window=one(self.window),
            span=one(self.span),
            query_lengths=one(self.query_lengths),
            key_lengths=one(self.key_lengths),
            edge=self.edge and replace(self.edge, span=one(self.edge.span)),
        )

    @property
    def soft_margin(self) -> int:
        """Keys beyond either end of an interval within the soft edge."""
        return 0 if self.edge is None else self.edge.soft_edge_width

    def window_starts(self, tokens: int) -> Tensor:
        """First position of each token's window, shape (batch, tokens), int64."""
        position = torch.arange(tokens, device=self.window.device)
        return position - position.remainder(self.window[:, None])

    def intervals(self, queries: int, keys: int | None = None) -> tuple[Tensor, Tensor]:
        """First key and end (exclusive) of each query's interval.

        Args:
            queries: Number of queries.
            keys: Number of keys; the same if None.

        Returns:
            Each of shape (batch, queries), int64; both 0 for a query without visible keys.
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
        has_keys = (self.span[:, None] > 0) & (first < end)
        if self.query_lengths is not None:
            has_keys = has_keys & (position < self.query_lengths[:, None])
        return torch.where(has_keys, first, 0), torch.where(has_keys, end, 0)

    def qk_pairs(self, queries: int, keys: int | None = None) -> Tensor:
        """Query-key pairs scored in one pass, shape (batch,), int64."""
        first, end = self.intervals(queries, keys)
        return (end - first).sum(-1)
