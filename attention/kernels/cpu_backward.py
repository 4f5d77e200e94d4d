"""Gradients of the CPU kernel, at a cost that grows linearly with the length.

Autograd would give every block of windows gradients of the whole sequence, and keep a graph of each
refinement pass. Here a block is differentiated by explicit matrix products, whose results are added
to the gradients of the sequence in place.

The scores of pass ``i`` are those of the queries ``f·u[i]`` with the inverse temperature ``f``,
``u[1] = q`` and ``u[i + 1] = u[i] + out[i]``. The gradient of ``out[i]`` is therefore that of
``u[i + 1]``, and in the last pass that of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.kernels.cpu_blocks import Block, blocks, overlapping
from spangym.attention.kernels.cpu_windows import Windows
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.kernels.reference import to_additive_mask

_CHUNK_SCORES = 1 << 17
"""Scores that are differentiated together: with their gradients a megabyte in single precision, the
cache of a core. One head of one window may have more."""

_TRANSPOSED_KEYS = 256
"""Keys from which on gradients of keys are accumulated transposed over several passes.

The product with transposed scores reads them by columns. Where their rows are a power of two apart,
as with the default spans, that is slower by a fifth.
"""

_softmax_backward = torch.ops.aten._softmax_backward_data.out


@dataclass(frozen=True)
class ForwardResult:
    """Results of the forward pass, and the gradients with respect to them.

    Attributes:
        passes: Number of passes of each query, shape (batch, queries), int64.
        kept: Queries that `refine` has kept, of all blocks in order.
        grad_out: Gradient with respect to the output, shaped like the queries.
        grad_last_query: Gradient with respect to the queries of the last pass; none if None.
    """

    passes: Tensor
    kept: Iterator[Tensor]
    grad_out: Tensor
    grad_last_query: Tensor | None


@dataclass(frozen=True)
class Gradients:
    """Gradients with respect to the inputs of the kernel, in at least single precision.

    Attributes:
        q: Shape (batch, queries, heads, head size).
        k: Shape (batch, keys, heads, head size).
        v: Likewise; the same tensor as ``k`` where keys are values, the gradient of both.
        inverse_temperature: Shape (batch, heads); None if it is not needed.
        mask: Shaped like the mask with leading ones; None if it is not needed.
        edge_span: Shape (batch,); None if it is not needed.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    inverse_temperature: Tensor | None
    mask: Tensor | None
    edge_span: Tensor | None


@torch.autocast("cpu", enabled=False)
def gradients(
    inputs: KernelInputs,
    forward: ForwardResult,
    needs_mask: bool,
    needs_inverse_temperature: bool,
    needs_edge_span: bool,
) -> Gradients:
    """Gradients with respect to queries, keys and values, and to other inputs where needed."""
    q, k, factor, mask = inputs.q, inputs.k, inputs.inverse_temperature, inputs.mask
    edge = inputs.spans.edge
    dtype = torch.promote_types(q.dtype, torch.float32)

    def zeros(x: Tensor) -> Tensor:
        return torch.zeros(x.shape, dtype=dtype)

    grad_k = zeros(k.transpose(1, 2))
    result = Gradients(
        q=zeros(q.transpose(1, 2)),
        k=grad_k,
        v=grad_k if inputs.v is k else torch.zeros_like(grad_k),
        inverse_temperature=zeros(q[:, :, 0, 0]) if needs_inverse_temperature else None,
        mask=zeros(mask[(None,) * (4 - mask.ndim)]) if mask is not None and needs_mask else None,
        edge_span=zeros(edge.span) if edge is not None and needs_edge_span else None,
    )
    buffer = _Buffer(dtype)
    for block in blocks(inputs):
        if isinstance(block, Block):
            _add_block(result, block, forward, buffer)
    if result.inverse_temperature is not None and factor is not None:
        # The sums are of gradients and of queries that were both multiplied by it.
        result.inverse_temperature.div_((factor if factor.ndim == 2 else factor[:, None]).square())
    return result


class _Buffer:
    """Memory for one tensor after the other: fresh memory costs page faults."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._memory = torch.empty(0, dtype=dtype)

    def empty(self, *shape: int) -> Tensor:
        """An uninitialized tensor, valid until the next call."""
        size = math.prod(shape)
        if len(self._memory) < size:
            self._memory = self._memory.new_empty(size)
        return self._memory[:size].view(shape)


def _add_block(result: Gradients, block: Block, forward: ForwardResult, buffer: _Buffer) -> None:
    edge_span, grad_edge_span = block.sequence.edge_span, result.edge_span
    mask, grad_mask = block.mask_part(block.sequence.mask), block.mask_part(result.mask)
    # What the bias of the scores depends on, and the gradients to add to.
    leaves: list[Tensor] = []
    totals: list[Tensor] = []
    if mask is not None and grad_mask is not None:
        leaves.append(mask := mask.detach().requires_grad_())
        totals.append(grad_mask)
    if edge_span is not None and grad_edge_span is not None:
        leaves.append(edge_span := edge_span.detach().requires_grad_())
        totals.append(grad_edge_span[block.sequence.index])
    with torch.set_grad_enabled(bool(leaves)):
        windows = block.windows_with(mask, edge_span)
    bias, grad_bias = windows.bias, None
    if bias is not None and leaves:
        grad_bias = torch.zeros(bias.shape, dtype=result.q.dtype)
    _BlockBackward(result, block, windows, forward, grad_bias, buffer).run()
    if bias is not None and grad_bias is not None:
        grads = torch.autograd.grad(bias, leaves, grad_bias.to(bias.dtype))
        for total, grad in zip(totals, grads, strict=True):
            total.add_(grad)


class _BlockBackward:
    """Adds the gradients of some windows and heads of a block at a time."""

    def __init__(
        self,
        result: Gradients,
        block: Block,
        windows: Windows,
        forward: ForwardResult,
        grad_bias: Tensor | None,
        buffer: _Buffer,
    ) -> None:
        index = block.sequence.index

        def own(x: Tensor) -> Tensor:
            """(windows, queries, ...) of (batch, queries, ...)."""
            own = x[index, block.start : block.start + block.tokens]
            return own.unflatten(0, (block.count, block.queries))

        self._block, self._windows, self._buffer = block, windows, buffer
        self._passes = own(forward.passes)
        self._kept = forward.kept
        self._grad_out, last = own(forward.grad_out), forward.grad_last_query
        self._grad_last_query = None if last is None else own(last)
        self._grad_q = own(result.q)
        self._grad_k, self._grad_v = result.k[index], result.v[index]
        factor = result.inverse_temperature
        self._grad_factor = None if factor is None else factor[index]
        bias = windows.bias
        if windows.triangle:
            visible = torch.ones(block.queries, block.keys, dtype=torch.bool).tril_()
            bias = to_additive_mask(visible, result.q.dtype)[None, None]
        self._bias = self._blind = None
        if bias is not None:
            self._bias = bias.detach()
            blind = (self._bias == -torch.inf).all(-1, keepdim=True)
            self._blind = blind if blind.any() else None
        self._grad_bias = grad_bias

    def run(self) -> None:
        """Add the gradients of all windows."""
        _, queries, num_heads, _ = self._windows.q.shape
        fitting = max(1, _CHUNK_SCORES // (queries * self._windows.k.shape[1]))
        step, end = max(1, fitting // num_heads), 0
        for passes, windows in itertools.groupby(self._passes.amax(1).tolist()):
            start, end = end, end + len(list(windows))
            kept = [self._windows.q[start:end], *itertools.islice(self._kept, passes - 1)]
            for window in range(start, end, step):
                rows = slice(window, min(window + step, end))
                own = [each[rows.start - start : rows.stop - start] for each in kept]
                for head in range(0, num_heads, fitting):
                    self._add(rows, slice(head, head + fitting), own)

    def _add(self, rows: slice, heads: slice, queries: Sequence[Tensor]) -> None:
        """Add the gradients of some heads of consecutive windows.

        Args:
            rows: The windows.
            heads: The heads.
            queries: Queries of the windows in each pass, (windows, queries, heads, head size).
        """
        dtype, windows, count = self._grad_k.dtype, self._windows, rows.stop - rows.start

        def matrices(x: Tensor) -> Tensor:
            """Contiguous copy, (windows * heads, tokens, size)."""
            x = x[:, :, heads].transpose(1, 2)
            return torch.empty(x.shape, dtype=dtype).copy_(x).flatten(0, 1)

        def by_window(x: Tensor) -> Tensor:
            """The inverse of `matrices`."""
            return x.unflatten(0, (count, -1)).transpose(1, 2)

        def part(x: Tensor) -> Tensor:
            """Part of a tensor that is broadcastable to (windows, heads, queries, keys)."""
            x = x[rows] if len(x) > 1 else x
            return x[:, heads] if x.shape[1] > 1 else x

        k = matrices(windows.k[rows])
        v = k if windows.v is windows.k else matrices(windows.v[rows])
        grad_out = matrices(self._grad_out[rows])
        grad_q = torch.zeros_like(grad_out)
        scores, grad_scores = self._buffer.empty(2, len(k), grad_out.shape[1], k.shape[1])
        bias = None if self._bias is None else part(self._bias)
        blind = None if self._blind is None else part(self._blind)
        is_transposed = len(queries) > 1 and k.shape[1] >= _TRANSPOSED_KEYS
        attention = _Attention(k, v, scores, grad_scores, bias, blind, count, is_transposed)
        scaled_k, factor = k, windows.inverse_temperature
        if factor is not None:
            # One factor for all, or one for each matrix.
            factor = factor[heads].repeat(count, 1)[..., None] if factor.ndim else factor
            scaled_k = k * factor
        if self._grad_last_query is not None:
            grad_q = matrices(self._grad_last_query[rows])
            grad_q = grad_q if factor is None else grad_q * factor
            self._add_to_factor(heads, by_window(grad_q * matrices(queries[-1])))
        stops = self._passes[rows, None, :, None].expand(-1, len(k) // count, -1, 1).flatten(0, 1)
        grad_now = grad_out
        q = torch.empty_like(grad_out)
        q_by_window = by_window(q)
        for number in range(len(queries), 0, -1):
            q_by_window.copy_(queries[number - 1][:, :, heads])
            if windows.per_query_convergence and len(queries) > 1:
                grad_now = torch.where(stops == number, grad_out, grad_q)
                grad_now = grad_now.masked_fill_(stops < number, 0.0)
            grad_scores = attention.differentiate(q, grad_now)
            if self._grad_bias is not None:
                total = part(self._grad_bias)
                total.add_(grad_scores.unflatten(0, (count, -1)).sum_to_size(total.shape))
            if self._grad_factor is None:
                grad_q.baddbmm_(grad_scores, scaled_k, alpha=attention.scale)
            else:
                own = torch.baddbmm(grad_q, grad_scores, scaled_k, beta=0, alpha=attention.scale)
                self._add_to_factor(heads, by_window(own * q))
                grad_q.add_(own)
            grad_now = grad_q
        self._grad_q[rows, :, heads] = by_window(grad_q)
        step = self._block.sequence.window
        first = self._block.first_key + rows.start * step
        _add_overlapping(self._grad_k[:, heads], by_window(attention.grad_k), first, step)
        if v is not k:
            _add_overlapping(self._grad_v[:, heads], by_window(attention.grad_v), first, step)

    def _add_to_factor(self, heads: slice, terms: Tensor) -> None:
        if self._grad_factor is not None:
            self._grad_factor[heads].add_(terms.sum((0, 1, 3)))


class _Attention:
    """Attention of one matrix for each window and head, with gradients of keys and values.

    Args:
        k: Keys, shape (matrices, keys, head size).
        v: Values, likewise; the same tensor where keys are values.
        scores: Memory of shape (matrices, queries, keys).
        grad_scores: Likewise.
        bias: Added to the scores, broadcastable to (windows, heads, queries, keys); none if None.
        blind: Which queries have no visible keys, broadcastable likewise; none if None.
        windows: Number of windows.
        is_transposed: Whether to accumulate the gradients of keys and values transposed.
    """

    def __init__(
        self,
        k: Tensor,
        v: Tensor,
        scores: Tensor,
        grad_scores: Tensor,
        bias: Tensor | None,
        blind: Tensor | None,
        windows: int,
        is_transposed: bool,
    ) -> None:
        self.scale = k.shape[2] ** -0.5
        self._k, self._v, self._scores, self._grad_scores = k.mT, v.mT, scores, grad_scores
        self._bias, self._blind = bias, blind
        self._by_head = scores.unflatten(0, (windows, -1))
        self._transposed = is_transposed
        self._grad_k = k.new_zeros(k.mT.shape) if self._transposed else torch.zeros_like(k)
        self._grad_v = self._grad_k if v is k else torch.zeros_like(self._grad_k)

    @property
    def grad_k(self) -> Tensor:
        """Gradient of the keys, shaped like them; that of the values too where they are values."""
        return self._grad_k.mT if self._transposed else self._grad_k

    @property
    def grad_v(self) -> Tensor:
        """Gradient of the values, shaped like them."""
        return self._grad_v.mT if self._transposed else self._grad_v

    def differentiate(self, q: Tensor, grad_out: Tensor) -> Tensor:
        """Add to the gradients of keys and values; gradient of the scores, until the next call."""
        scores, grad_scores = self._scores, self._grad_scores
        torch.baddbmm(scores, q, self._k, beta=0, alpha=self.scale, out=scores)
        if self._bias is not None:
            self._by_head.add_(self._bias)
        torch.softmax(scores, -1, out=scores)
        if self._blind is not None:
            self._by_head.masked_fill_(self._blind, 0.0)
        torch.bmm(grad_out, self._v, out=grad_scores)
        self._add(self._grad_v, scores, grad_out, 1.0)
        _softmax_backward(grad_scores, scores, -1, scores.dtype, grad_input=grad_scores)
        self._add(self._grad_k, grad_scores, q, self.scale)
        return grad_scores

    def _add(self, total: Tensor, weights: Tensor, x: Tensor, alpha: float) -> None:
        if self._transposed:
            total.baddbmm_(x.mT, weights, alpha=alpha)
        else:
            total.baddbmm_(weights.mT, x, alpha=alpha)


def _add_overlapping(total: Tensor, windows: Tensor, first: int, step: int) -> None:
    """Add (windows, length, heads, size), ``step`` tokens apart, to (tokens, heads, size).

    Whatever is added at once does not overlap, so that the order of the sums is fixed.
    """
    count, length = windows.shape[:2]
    if count * step <= length:
        for index, window in enumerate(windows):
            start = first + index * step
            total[start : start + length].add_(window)
        return
    for offset in range(0, length, step):
        part = windows[:, offset : offset + step]
        overlapping(total, first + offset, part.shape[1], step, count).add_(part)
