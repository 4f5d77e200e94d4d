"""Attention limited to a span, on queries, keys and values that are handed in."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats, compute_attention_stats
from spangym.attention.geometry import SoftEdge, SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import attention_weights, score_bias
from spangym.attention.kernels.select import select_kernel
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.span_config import SpanConfig, check, check_ints
from spangym.attention.temperature import temperature
from spangym.attention.validation import check_lengths, check_mask, check_values


class LocalAttentionOutput(NamedTuple):
    """What span-limited attention did.

    Attributes:
        output: Shape (batch, queries, dims); zero where a sequence is off.
        spans: Window and span of each sequence.
        qk_pairs: Query-key pairs scored, over all passes, shape (batch,), int64. It counts the
            pairs that the result needs; a kernel that works in tiles may touch some more.
        num_refinement_steps: Passes that the slowest query of each sequence took, shape (batch,), int64.
        stats: Statistics of the attention weights, if asked for.
    """

    output: Tensor
    spans: SpanGeometry
    qk_pairs: Tensor
    num_refinement_steps: Tensor
    stats: AttentionStats | None = None


class AdaptiveSpan(nn.Module):
    """One span-limited attention on given queries, keys and values; it has no parameters.

    Queries are cut in windows of ``max(1, int(win_size · m))`` tokens; a window sees the keys from
    ``S - w`` before it to ``S`` after its beginning, ``S = max(1, int(max_span · m))``. Scores are
    ``q·k / (sqrt(head size) · T)`` with the temperature ``T`` of the chosen law.

    With ``soft_span`` the edge of the interval fades out, so that the span scale gets a gradient
    (Sukhbaatar et al., Adaptive Attention Span in Transformers, 2019): see
    `spangym.attention.geometry.SoftEdge`.

    Args:
        head: Number of heads.
        options: Spans, temperature and causality.

    Example:
        >>> attention = AdaptiveSpan(2, SpanConfig(win_size=4, max_span=8))
        >>> q = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(0))
        >>> done = attention(q, q, q, torch.tensor([0.0, 0.5, 1.0]))
        >>> done.spans.span.tolist(), done.output[0].abs().max().item()
        ([0, 4, 8], 0.0)
    """

    def __init__(self, head: int, options: SpanConfig) -> None:
        super().__init__()
        check_ints(head=head)
        check([(head >= 1, f"head must be at least 1, got {head}")])
        self.head = head
        self.options = options

    def temperature(self, scale: Tensor) -> Tensor:
        """Temperature of each sequence at its span scale, shape (batch,)."""
        return temperature(scale, self.options.temperature_law, self.options.temp_scale)

    def spans(
        self,
        scale: Tensor,
        query_lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        *,
        is_cross: bool = False,
    ) -> SpanGeometry:
        """What each query sees at the sequences' span scales, shape (batch,).

        Args:
            scale: Span scale of each sequence, shape (batch,), in [0, 1].
            query_lengths: Queries of each sequence that are no padding, shape (batch,), integers.
            key_lengths: The same of the keys.
            is_cross: Whether keys come from another sequence, which has no future to be hidden.
        """
        options = self.options
        spans = SpanGeometry.from_scale(
            scale,
            win_size=options.win_size,
            max_span=options.max_span,
            max_dist=options.max_dist,
        )
        edge = None
        if options.soft_span:
            reach = (scale.float() * options.max_span).clamp_max(options.max_dist)
            edge = SoftEdge(reach, options.soft_edge_width)
        return dataclasses.replace(
            spans,
            causal=options.causal and not is_cross,
            per_query_convergence=options.causal,
            query_lengths=query_lengths,
            key_lengths=key_lengths,
            edge=edge,
        )

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        return_stats: bool = False,
    ) -> LocalAttentionOutput:
        """Attend within the intervals that the span scales give.

        Args:
            q: Queries, shape (batch, queries, dims).
            k: Keys, shape (batch, keys, dims).
            v: Values, same shape. Handing in the same tensor saves work.
            scale: Span scale of each sequence, shape (batch,), in [0, 1]; 0 turns a sequence off.
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
        spans = self.spans(scale, lengths, key_lengths)
        return self._attend(q, k, v, scale, spans, mask, 1, return_stats)

    def weights(
        self,
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> Tensor:
        """The attention weights, shape (batch, heads, queries, keys); arguments as in `forward`."""
        spans = self.spans(scale, lengths, key_lengths)
        return self._weights(q, k, k, scale, spans, mask, 1)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        spans: SpanGeometry,
        mask: Tensor | None,
        steps: int,
        return_stats: bool,
    ) -> LocalAttentionOutput:
        inputs, kernel_output = self._run_kernel(q, k, v, scale, spans, mask, steps, return_stats)
        first, end = spans.intervals(q.shape[1], k.shape[1])
        visited = ((end - first) * kernel_output.passes).sum(-1)
        num_refinement_steps = kernel_output.passes.amax(-1)
        stats = None
        if return_stats:
            weight_stats = compute_attention_stats(inputs, kernel_output)
            stats = AttentionStats(
                spans.window, spans.span, visited, num_refinement_steps, *weight_stats
            )
        return LocalAttentionOutput(
            merge_heads(kernel_output.output), spans, visited, num_refinement_steps, stats
        )

    def _weights(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        spans: SpanGeometry,
        mask: Tensor | None,
        steps: int,
    ) -> Tensor:
        inputs, kernel_output = self._run_kernel(
            q, k, v, scale, spans, mask, steps, return_lse=True
        )
        assert kernel_output.last_query is not None
        query, key = kernel_output.last_query, inputs.k
        return attention_weights(query, key, score_bias(query, key, spans, mask))

    def _run_kernel(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        spans: SpanGeometry,
        mask: Tensor | None,
        steps: int,
        return_lse: bool,
    ) -> tuple[KernelInputs, KernelOutput]:
        self._check(q, k, v, scale, mask, spans)
        query, key, value, inverse_temperature = self._project(q, k, v, scale)
        inputs = KernelInputs(
            query, key, value, spans, mask, steps, inverse_temperature, return_lse
        )
        return inputs, select_kernel(query)(inputs)

    def _project(
        self, q: Tensor, k: Tensor, v: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values by heads, and the inverse temperature of each sequence."""
        dtype = q.dtype
        if torch.is_autocast_enabled(q.device.type):
            dtype = torch.get_autocast_dtype(q.device.type)
        key = split_heads(k, self.head).to(dtype)
        value = key if v is k else split_heads(v, self.head).to(dtype)
        if self.options.scale_weights:
            # A sequence that is off has no weights to be scaled.
            # A span is at least a token, whatever its scale.
            least = 1 / self.options.max_span
            factor = torch.where(scale > 0, scale.clamp_min(least), 1).reciprocal()
            value = value * factor.to(dtype)[:, None, None, None]
        precise = scale.to(torch.promote_types(scale.dtype, torch.float32))
        inverse_temperature = self.temperature(precise).reciprocal()
        return split_heads(q, self.head).to(dtype), key, value, inverse_temperature

    def _check(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: Tensor,
        mask: Tensor | None,
        spans: SpanGeometry,
    ) -> None:
        if q.ndim != 3 or 0 in q.shape or q.shape[-1] % self.head:
            raise ValueError(
                f"q has shape {tuple(q.shape)}; it must be (batch, queries, dims), none of them 0, "
                f"with dims a multiple of the {self.head} heads"
            )
        if k.ndim != 3 or k.shape[::2] != q.shape[::2] or k.shape[1] == 0 or v.shape != k.shape:
            raise ValueError(
                f"k and v have shapes {tuple(k.shape)} and {tuple(v.shape)}; both must be "
                f"({q.shape[0]}, keys, {q.shape[2]}) with at least one key"
            )
        if scale.shape != q.shape[:1]:
            raise ValueError(
                f"scale has shape {tuple(scale.shape)}; it must be ({q.shape[0]},), one a sequence"
            )
        check_values("scale", scale, 0, 1)
        check_mask(mask, (q.shape[0], self.head, q.shape[1], k.shape[1]))
        check_lengths("lengths", spans.query_lengths, q.shape[0], q.shape[1])
        check_lengths("key_lengths", spans.key_lengths, q.shape[0], k.shape[1])
