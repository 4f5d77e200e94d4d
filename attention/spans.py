"""Integer geometry of the local path: span scale -> windows -> intervals of keys, lane by lane.

A *lane* is one sequence with a span of its own. Its queries are cut in windows of ``w``
consecutive tokens, and window ``i`` sees the keys ``[max(0, i*w - e), min(i*w + S, N))``, where
``S`` is the span and ``e = S - w`` the reach. Everything here is a pure function of tensors: no
value is read back to the host, so that it runs on an accelerator without a synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ACTIONS = 10
"""Number of span decisions: action ``a`` asks for the share ``a / 9`` of the predicted span."""


@dataclass(frozen=True)
class Spans:
    """Window and span of every lane.

    Attributes:
        window: Queries that share one interval of keys, shape (lanes,), int64, at least 1.
        span: Keys from the first query of a window on, shape (lanes,), int64; at least the window,
            or 0 where the local path of the lane is off.

    Example:
        >>> spans = Spans.from_scale(torch.tensor([0.5, 0.0]), win_size=8, max_span=12)
        >>> spans.window.tolist(), spans.span.tolist()
        ([4, 1], [6, 0])
        >>> first, last = spans.intervals(10)
        >>> list(zip(first[0].tolist(), last[0].tolist()))[::4]
        [(0, 6), (2, 10), (6, 10)]
        >>> spans.visited_keys(10).tolist()
        [64, 0]
    """

    window: Tensor
    span: Tensor

    @classmethod
    def from_scale(
        cls, scale: Tensor, *, win_size: int, max_span: int, max_dist: int | None = None
    ) -> Spans:
        """Turn span scales into windows and spans.

        Args:
            scale: Span scale ``m`` of each lane, shape (lanes,), in [0, 1]; 0 turns a lane off.
            win_size: Window at ``m = 1``, in tokens.
            max_span: Span at ``m = 1``, in tokens, at least ``win_size``.
            max_dist: Upper bound on the span, in tokens, at least ``win_size``; none by default.

        Returns:
            The windows ``max(1, int(win_size * m))`` and spans ``max(1, int(max_span * m))``.
        """
        # float64, as Python multiplies: float32 would round 0.7 * 10 up to 7 where int() gives 6.
        exact = scale.double()
        window = (exact * win_size).long().clamp_min(1)
        span = (exact * max_span).long().clamp(1, max_dist)
        return cls(window, torch.where(scale > 0, span, 0))

    def window_index(self, tokens: int) -> Tensor:
        """Window in which each token's query lies, shape (lanes, tokens), int64."""
        position = torch.arange(tokens, device=self.window.device)
        return position.div(self.window[:, None], rounding_mode="floor")

    def intervals(self, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of the interval that each query sees.

        Args:
            tokens: Length ``N`` of the sequences.

        Returns:
            ``first`` and ``end`` (exclusive), each of shape (lanes, tokens), int64; both 0 for a
            lane that is off.
        """
        start = self.window_index(tokens) * self.window[:, None]
        reach = (self.span - self.window)[:, None]
        on = self.span[:, None] > 0
        first = torch.where(on, (start - reach).clamp_min(0), 0)
        end = torch.where(on, (start + self.span[:, None]).clamp_max(tokens), 0)
        return first, end

    def visited_keys(self, tokens: int) -> Tensor:
        """Query-key pairs scored in one pass over ``tokens`` tokens, shape (lanes,), int64."""
        first, end = self.intervals(tokens)
        return (end - first).sum(-1)
