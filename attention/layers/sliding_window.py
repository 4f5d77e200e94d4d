"""The local path: windows that attend to their interval of keys, focused over several passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spangym.attention.layers.adaptive_span import AdaptiveSpan, LocalAttentionOutput
from spangym.attention.layers.modules import ProjectionModule, merge_heads
from spangym.attention.span_config import (
    SpanConfig,
    check,
    check_ints,
    check_sizes,
)

MAX_REFINEMENT_STEPS = 10
"""Most passes of iterative focus, unless a layer is told otherwise."""


class SlidingWindowAttention(AdaptiveSpan):
    """Local attention of sliding windows with iterative focus.

    Queries, keys and values are the input itself, split in heads, unless ``projections`` learns
    them. What a window sees and how scores are scaled is `AdaptiveSpan`'s.

    A pass is repeated with ``q <- q + out``, keys and values fixed, at most 10 times. A window
    stops by itself when ``d < 1e-4 + 0.1·d``, ``d`` the mean absolute change of its output, and
    keeps the output it stopped at. With ``causal`` each query stops by itself, since later queries
    of its window must not decide when it does.

    A *shifted* head takes the key of the token before, and the value of the token itself: a query
    that matches a token's key reads what followed that token. One layer can thus continue what it
    has seen before (an induction head: Olsson et al., In-context Learning and Induction Heads,
    2022), which needs two layers otherwise.

    Args:
        head: Number of heads.
        options: Spans, temperature and causality.
        dims: Width of learned projections of queries, keys and values; none are learned if None.
        num_refinement_steps: Most passes of iterative focus, at least 1.
        num_induction_heads: How many heads are shifted, the first ones; the key of the first token is 0
            there.

    Example:
        >>> local = SlidingWindowAttention(2, SpanConfig(win_size=4, max_span=8))
        >>> x = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(0))
        >>> done = local(x, torch.ones(1))
        >>> done.output.shape, 1 <= done.num_refinement_steps.item() <= MAX_REFINEMENT_STEPS
        (torch.Size([1, 10, 16]), True)
    """

    def __init__(
        self,
        head: int,
        options: SpanConfig,
        dims: int | None = None,
        *,
        num_refinement_steps: int = MAX_REFINEMENT_STEPS,
        num_induction_heads: int = 0,
    ) -> None:
        super().__init__(head, options)
        check_ints(
            num_refinement_steps=num_refinement_steps, num_induction_heads=num_induction_heads
        )
        check(
            [
                (
                    num_refinement_steps >= 1,
                    f"num_refinement_steps must be at least 1, got {num_refinement_steps}",
                ),
                (
                    0 <= num_induction_heads <= head,
                    f"num_induction_heads must be in 0..head, got num_induction_heads={num_induction_heads}, "
                    f"head={head}",
                ),
            ]
        )
        self.num_refinement_steps = num_refinement_steps
        self.num_induction_heads = num_induction_heads
        self.projections = None
        if dims is not None:
            check_sizes(1, dims, head)
            names = ("query", "key", "value")
            self.projections = nn.ModuleDict({name: ProjectionModule(dims, head) for name in names})

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        scale: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        return_stats: bool = False,
    ) -> LocalAttentionOutput:
        """Attend within the intervals that the span scales give, until each window has settled.

        Args:
            x: Normalized input, shape (batch, queries, dims).
            scale: Span scale of each sequence, shape (batch,), in [0, 1]; 0 turns a sequence off.
            xa: Where keys and values come from, shape (batch, keys, dims); ``x`` if None. Queries
                and keys stand at the same positions: window ``i`` sees its interval of ``xa``, all
                of it with ``causal`` too.
            mask: Boolean (True: may be seen) or added to the scores; broadcastable to (batch,
                heads, queries, keys).
            lengths: Queries of each sequence that are no padding, shape (batch,), integers.
            key_lengths: The same of the keys.
            return_stats: Whether to give statistics of the attention weights.

        Returns:
            The output with its spans and its price.

        Raises:
            ValueError: Shapes do not fit one another, or values on the host are out of bounds.
        """
        q, k, v = self._queries_keys_values(x, xa)
        spans = self.spans(scale, lengths, key_lengths, is_cross=xa is not None)
        return self._attend(q, k, v, scale, spans, mask, self.num_refinement_steps, return_stats)

    def weights(  # type: ignore[override]
        self,
        x: Tensor,
        scale: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> Tensor:
        """The attention weights of each query's last pass; arguments as in `forward`.

        Returns:
            Shape (batch, heads, queries, keys).
        """
        q, k, v = self._queries_keys_values(x, xa)
        spans = self.spans(scale, lengths, key_lengths, is_cross=xa is not None)
        return self._weights(q, k, v, scale, spans, mask, self.num_refinement_steps)

    def _queries_keys_values(self, x: Tensor, xa: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        source = x if xa is None else xa
        if self.projections is None:
            return x, self._shifted(source), source
        query, key, value = self.projections.values()
        keys = self._shifted(merge_heads(key(source)))
        return merge_heads(query(x)), keys, merge_heads(value(source))

    def _shifted(self, keys: Tensor) -> Tensor:
        """Keys with those of the shifted heads moved one token on."""
        if not self.num_induction_heads:
            return keys
        width = keys.shape[-1] // self.head * self.num_induction_heads
        moved = nn.functional.pad(keys[:, :-1, :width], (0, 0, 1, 0))
        return torch.cat([moved, keys[..., width:]], dim=-1)
