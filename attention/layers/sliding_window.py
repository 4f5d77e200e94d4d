"""The local path: windows that attend to their interval of keys in several refinement passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spangym.attention.features import zero_padding
from spangym.attention.layers.adaptive_span import AdaptiveSpan, LocalAttentionOutput
from spangym.attention.layers.modules import ProjectionModule, merge_heads
from spangym.attention.span_config import SpanConfig
from spangym.attention.validation import check, check_sizes


class SlidingWindowAttention(AdaptiveSpan):
    """Local attention of sliding windows with refinement.

    Queries, keys and values are the input itself, split into heads, or projections of it
    (``local_projections``). Windows, intervals and scores are those of `AdaptiveSpan`.

    Each refinement pass adds the output to the queries, ``q <- q + out``; keys and values stay. A
    window stops when ``d < 1e-4 + 0.1·d``, ``d`` the mean absolute change of its output. With
    ``causal`` each query stops separately, so that later queries cannot affect earlier ones.

    In the first ``num_induction_heads`` heads the key of a token is that of the previous token, 0
    for the first. A query that matches a token therefore reads the value of the token after it, and
    one layer can continue a repeated sequence (Olsson et al., In-context Learning and Induction
    Heads, 2022).

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        config: Span options.

    Example:
        >>> local = SlidingWindowAttention(16, 2, SpanConfig(win_size=4, max_span=8))
        >>> x = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(0))
        >>> result = local(x, torch.ones(1))
        >>> result.output.shape, 1 <= result.num_refinement_steps.item() <= 10
        (torch.Size([1, 10, 16]), True)
    """

    def __init__(self, dims: int, head: int, config: SpanConfig) -> None:
        super().__init__(head, config)
        _, dims, head = check_sizes(1, dims, head)
        shifted = config.num_induction_heads
        in_range = f"num_induction_heads must be in 0..head, got {shifted}, head={head}"
        check([(0 <= shifted <= head, in_range)])
        self.projections = None
        if config.local_projections:
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
        projected: tuple[Tensor, Tensor, Tensor] | None = None,
        full_lse: Tensor | None = None,
        return_stats: bool = False,
        return_weights: bool = False,
    ) -> LocalAttentionOutput:
        """Attend from ``x`` to ``xa``, or to ``x`` itself if None; see `AdaptiveSpan.forward`.

        Cross-attention pairs positions: a window of ``x`` attends to its interval of ``xa``, and
        to all of that interval with ``causal`` too. ``projected`` and ``full_lse`` are the results
        of `project` and `full_log_sum_exp` for these inputs, if they are known.
        """
        source = x if xa is None else xa
        self._check(x, source, source, scale, mask, lengths, key_lengths)
        if projected is None:
            projected = self.project(x, xa, lengths=lengths, key_lengths=key_lengths)
        return self._attend(
            *projected,
            scale,
            mask,
            lengths,
            key_lengths,
            self.config.num_refinement_steps,
            xa is not None,
            return_stats,
            return_weights,
            full_lse,
        )

    def project(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each of shape (batch, tokens, dims); arguments of `forward`."""
        queries = zero_padding(x, lengths)
        source = queries
        if xa is not None or key_lengths is not lengths:
            source = zero_padding(x if xa is None else xa, key_lengths).to(x.dtype)
        if self.projections is None:
            return queries, self._shift(source), source
        query, key, value = self.projections.values()
        keys = self._shift(merge_heads(key(source)))
        return merge_heads(query(queries)), keys, merge_heads(value(source))

    def _shift(self, keys: Tensor) -> Tensor:
        """Keys with those of the induction heads moved to the next token."""
        if not self.config.num_induction_heads:
            return keys
        width = keys.shape[-1] // self.head * self.config.num_induction_heads
        moved = nn.functional.pad(keys[..., :width], (0, 0, 1, 0))[:, :-1]
        return torch.cat([moved, keys[..., width:]], dim=-1)
