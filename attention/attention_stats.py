"""Statistics of the local path's attention weights, computed without materializing the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import attention_weights, score_bias
from spangym.attention.kernels.select import select_kernel

_BLOCK = 64
"""Queries of a block where weights cannot be avoided: memory stays linear in the keys."""


@dataclass(frozen=True)
class AttentionStats:
    """Statistics of an attention, all of shape (batch,), on the layer's device, without gradients.

    Entropy and coverage belong to the last refinement pass. They are averaged over heads and over
    the queries with visible keys, and are 0 for a sequence that is off.

    Attributes:
        window: Window in tokens, int64.
        span: Span in tokens, int64; 0 where a sequence is off.
        qk_pairs: Query-key pairs scored, over all passes, int64.
        num_refinement_steps: Number of passes of the slowest query, int64.
        entropy: Entropy of the attention weights ``-sum(p·log p)``, in nats.
        effective_span: ``exp(entropy)``, in keys: the span of uniform weights of this entropy.
        coverage: Share of full attention's weight within the span, in [0, 1].
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
    inputs: KernelInputs, kernel_output: KernelOutput
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, effective span and coverage of a kernel's output.

    The score of a query and a key is ``q·k / sqrt(size)``: its mean under the weights is the score
    of the query with the mean key, and ``entropy = log-sum-exp - mean score``. Where keys are
    values, the mean key is the output. The mean of an additive mask or a soft edge needs the
    weights, which are computed for a block of queries at a time.

    Args:
        inputs: Inputs of the kernel.
        kernel_output: Output of the kernel, with the log-sum-exp and the last queries.

    Returns:
        Three tensors of shape (batch,), at least float32.

    Raises:
        ValueError: The kernel was called without ``return_lse``.
    """
    q, lse, k, mask = kernel_output.last_query, kernel_output.log_sum_exp, inputs.k, inputs.mask
    if q is None or lse is None:
        raise ValueError("the log-sum-exp is missing: call the kernel with return_lse=True")
    spans, attend = inputs.spans, select_kernel(q)
    last_pass = replace(inputs, q=q, steps=1, inverse_temperature=None, return_lse=False)
    mean_key = kernel_output.output if inputs.v is k else attend(replace(last_pass, v=k)).output
    mean_score = (q.to(lse.dtype) * mean_key.to(lse.dtype)).sum(-1) * q.shape[-1] ** -0.5
    if spans.edge is not None or (mask is not None and mask.dtype != torch.bool):
        mean_score = mean_score + _mean_bias(q, k, spans, mask)
    entropy = (lse - mean_score).clamp_min(0)
    full_span = SpanGeometry.full(spans, max(q.shape[-2], k.shape[-2]))
    full_lse = attend(replace(last_pass, spans=full_span, return_lse=True)).log_sum_exp
    assert full_lse is not None
    coverage = (lse - full_lse).exp().clamp_max(1)
    first, end = spans.intervals(q.shape[-2], k.shape[-2])
    has_keys = (end > first)[:, None].expand_as(lse)
    if mask is not None:
        has_keys = has_keys & torch.cat([_has_keys(q, k, *own) for own in _unbatch(spans, mask)])
    count = has_keys.sum((1, 2))

    def mean(values: Tensor) -> Tensor:
        return torch.where(has_keys, values, 0).sum((1, 2)) / count.clamp_min(1)

    entropy = mean(entropy)
    return entropy, torch.where(count > 0, entropy.exp(), 0), mean(coverage)


def _unbatch(
    spans: SpanGeometry, mask: Tensor | None
) -> Iterator[tuple[SpanGeometry, Tensor | None]]:
    """Spans and mask of each sequence."""
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    for index in range(len(spans.window)):
        own = None if mask is None else mask[index : index + 1] if len(mask) > 1 else mask
        yield spans.select(index), own


def _has_keys(q: Tensor, k: Tensor, own: SpanGeometry, mask: Tensor | None) -> Tensor:
    """Which queries of a sequence have visible keys, boolean (1, heads, queries)."""
    blocks = [
        (score_bias(q[:1], k[:1], own, mask, rows) > -torch.inf).any(-1)
        for rows in _query_blocks(q.shape[2])
    ]
    return torch.cat(blocks, dim=-1).expand(1, q.shape[1], -1)


def _mean_bias(q: Tensor, k: Tensor, spans: SpanGeometry, mask: Tensor | None) -> Tensor:
    """Mean bias of the scores under the weights, shape (batch, heads, queries)."""
    means = []
    for index, (own, own_mask) in enumerate(_unbatch(spans, mask)):
        one = slice(index, index + 1)
        blocks = []
        for rows in _query_blocks(q.shape[2]):
            bias = score_bias(q[one], k[one], own, own_mask, rows)
            weights = attention_weights(q[one, :, rows], k[one], bias)
            blocks.append((weights * bias.masked_fill(weights == 0, 0.0)).sum(-1))
        means.append(torch.cat(blocks, dim=-1))
    return torch.cat(means)


def _query_blocks(queries: int) -> Iterator[slice]:
    for start in range(0, queries, _BLOCK):
        yield slice(start, min(start + _BLOCK, queries))
