"""The CPU kernel: many windows in one fused call, at a cost proportional to the visible keys.

All refinement passes run on a block of windows (`spangym.attention.kernels.cpu_blocks`) before the
next block, so that its queries and outputs stay in the cache of a core
(`spangym.attention.kernels.cpu_windows`; `spangym.attention.kernels.cpu_products` where heads are
small and no gradient is needed). Short sequences are scored densely
(`spangym.attention.kernels.cpu_dense`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spangym.attention.kernels import cpu_dense, cpu_products
from spangym.attention.kernels.cpu_blocks import blocks
from spangym.attention.kernels.cpu_windows import refine
from spangym.attention.kernels.interface import KernelInputs, KernelOutput


def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval; no gradient flows through the log-sum-exp."""
    inputs = _with_contiguous_heads(inputs)
    return cpu_dense.attend(inputs) if cpu_dense.is_supported(inputs) else attend_windows(inputs)


def attend_windows(inputs: KernelInputs) -> KernelOutput:
    """`attend` with windows for sequences of any length."""
    inputs = _with_contiguous_heads(inputs)
    batch, _, queries, _ = inputs.q.shape
    columns = 4 if inputs.return_lse else 2
    edge = inputs.spans.edge
    tracked = (inputs.q, inputs.k, inputs.v, inputs.mask, inputs.inverse_temperature)
    tracked += () if edge is None else (edge.span,)
    tracked = tuple(each for each in tracked if each is not None and each.requires_grad)
    needs_gradient = torch.is_grad_enabled() and bool(tracked)
    parts = (part[:columns] for part in _results(inputs, needs_gradient))
    if needs_gradient:
        results = [torch.cat(column) for column in zip(*parts, strict=True)]
    else:
        results, start = [], 0
        for part in parts:
            if not results:
                results = [x.new_empty(batch * queries, *x.shape[1:]) for x in part]
            end = start + len(part[0])
            for result, own in zip(results, part, strict=True):
                result[start:end] = own
            start = end
    out, passes, *more = (result.unflatten(0, (batch, queries)) for result in results)
    return KernelOutput(out.transpose(1, 2), passes, *(each.transpose(1, 2) for each in more))


def _results(inputs: KernelInputs, needs_gradient: bool) -> Iterator[Sequence[Tensor]]:
    """Output, passes, log-sum-exp and last queries of consecutive tokens of all sequences."""
    parts = blocks(inputs)
    for part in parts if needs_gradient else cpu_products.join(parts, inputs.steps):
        if isinstance(part, int):
            yield _empty_output(inputs.q, part)
        elif isinstance(part, list):
            yield cpu_products.refine(part, inputs.steps, inputs.return_lse)
        else:
            yield from refine(part.windows(), inputs.steps)


def _with_contiguous_heads(inputs: KernelInputs) -> KernelInputs:
    """Make the last dimension contiguous: the fused call requires it without a check."""

    def contiguous(x: Tensor) -> Tensor:
        return x if x.stride(-1) == 1 else x.contiguous()

    k = contiguous(inputs.k)
    v = k if inputs.v is inputs.k else contiguous(inputs.v)
    return replace(inputs, q=contiguous(inputs.q), k=k, v=v)


def _empty_output(q: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """Results of queries without visible keys."""
    heads, size = q.shape[1], q.shape[3]
    out = q.new_zeros(tokens, heads, size)
    lse = q.new_zeros(tokens, heads, dtype=torch.promote_types(q.dtype, torch.float32))
    return out, q.new_zeros(tokens, dtype=torch.int64), lse, out
