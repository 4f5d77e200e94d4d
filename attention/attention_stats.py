"""Statistics of the local path's attention weights, computed without materializing the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import attention_weights, score_bias
from spangym.attention.kernels.select import select_kernel
from spangym.utils.readable_repr import readable_repr

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

    __repr__ = readable_repr

    window: Tensor
    span: Tensor
    qk_pairs: Tensor
    num_refinement_steps: Tensor
    entropy: Tensor
    effective_span: Tensor
    coverage: Tensor


@torch.no_grad()
def compute_attention_stats(
    inputs: KernelInputs, kernel_output: KernelOutput, full_lse: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, effective span and coverage of a kernel's output.

    The score of a query and a key is ``q·k / sqrt(size)``: its mean under the weights is the score
    of the query with the mean key, and ``entropy = log-sum-exp - mean score``. Where keys are
    values, the mean key is the output. The mean of an additive mask or a soft edge needs the
    weights, which are computed for a block of queries at a time.

    Args:
        inputs: Inputs of the kernel.
        kernel_output: Output of the kernel, with the log-sum-exp and the last queries.
        full_lse: `full_log_sum_exp` of the last queries, if it is known.

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
        mean_score = mean_score + _by_blocks(_mean_bias, q, k, spans, mask)
    entropy = (lse - mean_score).clamp_min(0)
    if full_lse is None:
        full_lse = full_log_sum_exp(last_pass)
    coverage = (lse - full_lse).exp().clamp_max(1)
    first, end = spans.intervals(q.shape[-2], k.shape[-2])
    has_keys = (end > first)[:, None].expand_as(lse)
    if mask is not None:
        has_keys = has_keys & _by_blocks(_has_keys, q, k, spans, mask)
    count = has_keys.sum((1, 2))

    def mean(values: Tensor) -> Tensor:
        return torch.where(has_keys, values, 0).sum((1, 2)) / count.clamp_min(1)

    entropy = mean(entropy)
    return entropy, torch.where(count > 0, entropy.exp(), 0), mean(coverage)


@torch.no_grad()
def full_log_sum_exp(inputs: KernelInputs) -> Tensor:
    """Log-sum-exp of one pass of full attention, shape (batch, heads, queries)."""
    full_span = SpanGeometry.full(inputs.spans, max(inputs.q.shape[-2], inputs.k.shape[-2]))
    one_pass = replace(inputs, spans=full_span, steps=1, return_lse=True)
    full_lse = select_kernel(inputs.q)(one_pass).log_sum_exp
    assert full_lse is not None
    return full_lse


def _by_blocks(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    spans: SpanGeometry,
    mask: Tensor | None,
) -> Tensor:
    """Apply a function of queries, keys and bias to blocks of the queries of each sequence.

    Returns:
        Concatenation of the results, shape (batch, heads, queries).
    """
    results = []
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(len(q), -1, -1, -1)
    for index in range(len(q)):
        one, own = slice(index, index + 1), spans.select(index)
        own_mask = None if mask is None else mask[one]
        blocks = []
        for start in range(0, q.shape[2], _BLOCK):
            rows = slice(start, start + _BLOCK)
            bias = score_bias(q[one], k[one], own, own_mask, rows)
            blocks.append(function(q[one, :, rows], k[one], bias))
        results.append(torch.cat(blocks, dim=-1).expand(1, q.shape[1], -1))
    return torch.cat(results)


def _has_keys(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Which queries have visible keys."""
    del q, k
    return (bias > -torch.inf).any(-1)


def _mean_bias(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Mean bias of the scores under the weights."""
    weights = attention_weights(q, k, bias)
    return (weights * bias.masked_fill(weights == 0, 0.0)).sum(-1)
