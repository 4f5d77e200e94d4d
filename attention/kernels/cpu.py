"""The CPU kernel: many windows in one fused call, at a cost proportional to the visible keys.

All refinement passes run on a block of windows (`spangym.attention.kernels.cpu_blocks`) before the
next block, so that its queries and outputs stay in the cache of a core
(`spangym.attention.kernels.cpu_windows`; `spangym.attention.kernels.cpu_products` where heads are
small and no gradient is needed; `spangym.attention.kernels.cpu_single_pass` where there is one pass
only). Short sequences are scored densely (`spangym.attention.kernels.cpu_dense`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spangym.attention.geometry import SoftEdge, SpanGeometry
from spangym.attention.kernels import cpu_backward, cpu_dense, cpu_products, cpu_single_pass
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
    v, edge = None if inputs.v is inputs.k else inputs.v, inputs.spans.edge
    edge_span, edge_width = (None, 0) if edge is None else (edge.span, edge.soft_edge_width)
    tensors = (inputs.q, inputs.k, v, inputs.mask, inputs.inverse_temperature, edge_span)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors):
        spans = replace(inputs.spans, edge=None)
        options = (spans, edge_width, inputs.steps, inputs.return_lse)
        results = _WindowedAttention.apply(*tensors, *options)[: _columns(inputs.return_lse)]
    else:
        results = _results(inputs)
    out, passes, *more = (each.unflatten(0, inputs.q.shape[::2]) for each in results)
    return KernelOutput(out.transpose(1, 2), passes, *(each.transpose(1, 2) for each in more))


class _WindowedAttention(torch.autograd.Function):
    """Windowed attention with gradients with respect to all floating inputs.

    What is kept are the inputs and the queries of every refinement pass but the first, which have
    the size of the output each. Without them a training step would take a tenth longer.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        kept: list[Tensor] = []
        results = _results(_kernel_inputs(*args), kept)
        return *results, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, ctx.options = inputs[:6], inputs[6:]
        return_lse = inputs[-1]
        results, kept = output[: _columns(return_lse)], output[_columns(return_lse) :]
        # Output and last queries have gradients.
        ctx.mark_non_differentiable(*results[1:3], *kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, results[1], *kept)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad_out: Tensor | None, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *tensors, passes = (saved := ctx.saved_tensors)[:7]
        inputs = _kernel_inputs(*tensors, *ctx.options)
        q, _, v, mask, factor, _ = tensors
        if grad_out is None:
            grad_out = torch.zeros(len(passes), *q.shape[1::2], dtype=q.dtype)
        grad_last_query = grads[2] if inputs.return_lse else None

        def by_sequence(x: Tensor) -> Tensor:
            return x.unflatten(0, q.shape[::2])

        found = cpu_backward.gradients(
            inputs,
            cpu_backward.ForwardResult(
                by_sequence(passes),
                iter(saved[7:]),
                by_sequence(grad_out),
                None if grad_last_query is None else by_sequence(grad_last_query),
            ),
            *ctx.needs_input_grad[3:6],
        )
        grad_factor, grad_mask = found.inverse_temperature, found.mask
        if grad_factor is not None:
            grad_factor = grad_factor if factor.ndim == 2 else grad_factor.sum(1)
        results = (
            found.q.transpose(1, 2),
            found.k.transpose(1, 2),
            None if v is None else found.v.transpose(1, 2),
            None if grad_mask is None else grad_mask.view(mask.shape),
            grad_factor,
            found.edge_span,
        )
        pairs = zip(results, tensors, strict=True)
        cast = (None if grad is None else grad.to(x.dtype) for grad, x in pairs)
        return *cast, None, None, None, None


def _kernel_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    mask: Tensor | None,
    inverse_temperature: Tensor | None,
    edge_span: Tensor | None,
    spans: SpanGeometry,
    edge_width: int,
    steps: int,
    return_lse: bool,
) -> KernelInputs:
    """Inputs of the kernel from the arguments of `_WindowedAttention`."""
    if edge_span is not None:
        spans = replace(spans, edge=SoftEdge(edge_span, edge_width))
    v = k if v is None else v
    return KernelInputs(q, k, v, spans, mask, steps, inverse_temperature, return_lse)


def _columns(return_lse: bool) -> int:
    """Number of results: output, passes and, if asked for, log-sum-exp and last queries."""
    return 4 if return_lse else 2


def _results(inputs: KernelInputs, kept: list[Tensor] | None = None) -> list[Tensor]:
    """Results of the tokens of all sequences; adds the queries of further passes to ``kept``."""
    if cpu_single_pass.is_supported(inputs):
        return cpu_single_pass.attend(inputs)
    columns = _columns(inputs.return_lse)
    results, tokens, start = [], inputs.q.shape[0] * inputs.q.shape[2], 0
    for part in _parts(inputs, kept is not None):
        if not results:
            results = [x.new_empty(tokens, *x.shape[1:]) for x in part[:columns]]
        end = start + len(part[0])
        for result, own in zip(results, part[:columns], strict=True):
            result[start:end] = own
        if kept is not None:
            kept += part[4:]
        start = end
    return results


def _parts(inputs: KernelInputs, keep_queries: bool) -> Iterator[Sequence[Tensor]]:
    """Results of consecutive tokens, as of `refine`."""
    parts = blocks(inputs)
    for part in parts if keep_queries else cpu_products.join(parts, inputs.steps):
        if isinstance(part, int):
            yield _empty_output(inputs.q, part)
        elif isinstance(part, list):
            yield cpu_products.refine(part, inputs.steps, inputs.return_lse)
        else:
            yield from refine(part.windows(), inputs.steps, keep_queries)


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
