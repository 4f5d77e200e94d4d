"""What the local path's attention weights are like, from the log-sum-exp: none is written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.reference import attention_weights, score_bias
from spangym.attention.kernels.refinement import KernelOutput
from spangym.attention.kernels.select import select_kernel

_BLOCK = 64
"""Queries whose weights are written out together, where that cannot be helped."""


@dataclass(frozen=True)
class AttentionStats:
    """Statistics of one pass, all of shape (batch,), on the layer's device and without gradient.

    Entropy and coverage are of the last pass of iterative focus, averaged over heads and over the
    queries that see a key; 0 for a sequence that is off.

    Attributes:
        window: Window in tokens, int64.
        span: Span in tokens, int64; 0 where a sequence is off.
        qk_pairs: Query-key pairs scored, over all passes, int64.
        num_refinement_steps: Passes that the slowest query took, int64.
        entropy: Entropy of the attention weights ``-sum(p·log p)``, in nats.
        effective_span: ``exp(entropy)``: to how many keys alike that would amount.
        coverage: Share of full attention's weight that lies within the span, in [0, 1].
    """

    window: Tensor
    span: Tensor
    qk_pairs: Tensor
    num_refinement_steps: Tensor
    entropy: Tensor
    effective_span: Tensor
    coverage: Tensor


@torch.no_grad()
def compute_attention_stats(
    kernel_output: KernelOutput,
    k: Tensor,
    v: Tensor,
    spans: SpanGeometry,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, effective span and coverage of what a kernel computed.

    The score of a query and a key is ``q·k / sqrt(size)``, so its mean under the weights is that of
    the query with the mean key, and ``entropy = log-sum-exp - mean score``. Where keys are values
    the mean key is the output. What an additive mask or a soft edge adds has no such short cut: its
    mean takes the weights of a block of queries at a time.

    Args:
        kernel_output: With details.
        k: Keys, shape (batch, heads, keys, head size).
        v: Values; the same tensor where keys are values.
        spans: What each query sees.
        mask: As the kernel was given it.

    Returns:
        Three of shape (batch,), at least float32.

    Raises:
        ValueError: The kernel was not asked for details.
    """
    q, lse = kernel_output.last_query, kernel_output.log_sum_exp
    if q is None or lse is None:
        raise ValueError("attended must hold details: call the kernel with return_lse=True")
    attend = select_kernel(q)
    mean_key = kernel_output.output if v is k else attend(q, k, k, spans, mask=mask).output
    mean_score = (q.to(lse.dtype) * mean_key.to(lse.dtype)).sum(-1) * q.shape[-1] ** -0.5
    if spans.edge is not None or (mask is not None and mask.dtype != torch.bool):
        mean_score = mean_score + _mean_bias(q, k, spans, mask)
    entropy = (lse - mean_score).clamp_min(0)
    everything = SpanGeometry.full(spans, max(q.shape[-2], k.shape[-2]))
    full = attend(q, k, v, everything, mask=mask, return_lse=True).log_sum_exp
    assert full is not None
    coverage = (lse - full).exp().clamp_max(1)
    first, end = spans.intervals(q.shape[-2], k.shape[-2])
    seeing = (end > first)[:, None].expand_as(lse)
    if mask is not None:
        seeing = seeing & torch.cat([_seeing(q, k, *own) for own in _unbatch(spans, mask)])
    count = seeing.sum((1, 2))

    def mean(values: Tensor) -> Tensor:
        return torch.where(seeing, values, 0).sum((1, 2)) / count.clamp_min(1)

    entropy = mean(entropy)
    return entropy, torch.where(count > 0, entropy.exp(), 0), mean(coverage)


def _unbatch(
    spans: SpanGeometry, mask: Tensor | None
) -> Iterator[tuple[SpanGeometry, Tensor | None]]:
    """Spans and mask of one sequence after the other."""
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    for index in range(len(spans.window)):
        own = None if mask is None else mask[index : index + 1] if len(mask) > 1 else mask
        yield spans.select(index), own


def _rows(queries: int) -> Iterator[slice]:
    """Blocks of queries, so that memory does not grow with queries times keys."""
    for start in range(0, queries, _BLOCK):
        yield slice(start, min(start + _BLOCK, queries))


def _seeing(q: Tensor, k: Tensor, own: SpanGeometry, mask: Tensor | None) -> Tensor:
    """Which of a sequence's queries see a key, boolean (1, heads, queries)."""
    blocks = [
        (score_bias(q[:1], k[:1], own, mask, rows) > -torch.inf).any(-1)
        for rows in _rows(q.shape[2])
    ]
    return torch.cat(blocks, dim=-1).expand(1, q.shape[1], -1)


def _mean_bias(q: Tensor, k: Tensor, spans: SpanGeometry, mask: Tensor | None) -> Tensor:
    """Mean of what is added to the scores, under the weights; shape (batch, heads, queries)."""
    means = []
    for index, (own, own_mask) in enumerate(_unbatch(spans, mask)):
        one = slice(index, index + 1)
        blocks = []
        for rows in _rows(q.shape[2]):
            bias = score_bias(q[one], k[one], own, own_mask, rows)
            weights = attention_weights(q[one, :, rows], k[one], bias)
            blocks.append((weights * bias.masked_fill(weights == 0, 0.0)).sum(-1))
        means.append(torch.cat(blocks, dim=-1))
    return torch.cat(means)
