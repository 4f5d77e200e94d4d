"""The CPU kernel: many windows in one fused call, at a cost proportional to the visible keys.

The intervals of neighboring windows overlap and are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask. The few windows whose interval is
clipped by an end of the sequence are computed one by one.

All refinement passes run on a block of windows before the next block, so that its queries and
outputs stay in the cache of a core (`spangym.attention.kernels.cpu_windows`). Short sequences are
scored densely (`spangym.attention.kernels.cpu_dense`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels import cpu_dense
from spangym.attention.kernels.cpu_windows import Windows, refine
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import to_additive_mask

_BLOCK = 256
"""Tokens of a block of windows with refinement; four times as many with a single pass."""


def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval; no gradient flows through the log-sum-exp."""
    inputs = _with_contiguous_heads(inputs)
    return cpu_dense.attend(inputs) if cpu_dense.is_supported(inputs) else attend_windows(inputs)


def attend_windows(inputs: KernelInputs) -> KernelOutput:
    """`attend` with windows for sequences of any length."""
    inputs = _with_contiguous_heads(inputs)
    batch, _, queries, _ = inputs.q.shape
    columns = 4 if inputs.return_lse else 2
    blocks = (block[:columns] for block in _blocks(inputs))
    edge = inputs.spans.edge
    tracked = (inputs.q, inputs.k, inputs.v, inputs.mask, inputs.inverse_temperature)
    tracked += () if edge is None else (edge.span,)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tracked):
        results = [torch.cat(column) for column in zip(*blocks, strict=True)]
    else:
        results, start = [], 0
        for block in blocks:
            if not results:
                results = [x.new_empty(batch * queries, *x.shape[1:]) for x in block]
            end = start + len(block[0])
            for result, part in zip(results, block, strict=True):
                result[start:end] = part
            start = end
    out, passes, *more = (result.unflatten(0, (batch, queries)) for result in results)
    return KernelOutput(out.transpose(1, 2), passes, *(each.transpose(1, 2) for each in more))


@dataclass(frozen=True)
class _Sequence:
    """One sequence: (tokens, heads, head size), with its geometry on the host."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    inverse_temperature: Tensor | None  # shape () or (heads, 1)
    spans: SpanGeometry
    edge_span: Tensor | None
    window: int
    reach: int
    ahead: int


def _blocks(inputs: KernelInputs) -> Iterator[tuple[Tensor, ...]]:
    """Output, passes, log-sum-exp and last queries of consecutive tokens of all sequences."""
    q, k, v, spans, mask = inputs.q, inputs.k, inputs.v, inputs.spans, inputs.mask
    (batch, _, queries, _), keys = q.shape, k.shape[2]
    on_host = zip(
        spans.window.tolist(),
        spans.span.tolist(),
        [queries] * batch if spans.query_lengths is None else spans.query_lengths.tolist(),
        [keys] * batch if spans.key_lengths is None else spans.key_lengths.tolist(),
        strict=True,
    )
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(batch, -1, queries, keys)
    for index, (window, span, num_queries, num_keys) in enumerate(on_host):
        if span == 0 or num_keys == 0 or num_queries == 0:
            yield _empty_output(q, queries)
            continue
        own_k = k[index, :, :num_keys].transpose(0, 1)
        factor = inputs.inverse_temperature
        if factor is not None:
            factor = factor[index] if factor.ndim == 1 else factor[index, :, None]
        sequence = _Sequence(
            q=q[index, :, :num_queries].transpose(0, 1),
            k=own_k,
            v=own_k if v is k else v[index, :, :num_keys].transpose(0, 1),
            mask=None if mask is None else mask[index, :, :num_queries, :num_keys],
            inverse_temperature=factor,
            spans=spans,
            edge_span=None if spans.edge is None else spans.edge.span[index],
            window=window,
            reach=span - window + spans.soft_margin,
            ahead=window if spans.causal else span + spans.soft_margin,
        )
        windows_per_block = max(1, (_BLOCK if inputs.steps > 1 else 4 * _BLOCK) // window)
        for start, count in _groups(sequence, windows_per_block):
            windows = _windows(sequence, start, count)
            if windows is None:
                yield _empty_output(q, min(window, num_queries - start))
            else:
                yield from refine(windows, inputs.steps)
        if num_queries < queries:
            yield _empty_output(q, queries - num_queries)


def _groups(sequence: _Sequence, windows_per_block: int) -> Iterator[tuple[int, int]]:
    """First token and number of the windows that are refined together."""
    window, tokens = sequence.window, len(sequence.q)
    num_windows = -(-tokens // window)
    # The interval of an interior window has `reach + ahead` keys.
    first = min(-(-sequence.reach // window), num_windows)
    last = max(min((len(sequence.k) - sequence.ahead) // window + 1, tokens // window), first)
    clipped = [(index, 1) for index in (*range(first), *range(last, num_windows))]
    blocks = [
        (index, min(windows_per_block, last - index))
        for index in range(first, last, windows_per_block)
    ]
    for index, count in sorted(clipped + blocks):
        yield index * window, count


def _windows(sequence: _Sequence, start: int, count: int) -> Windows | None:
    """Consecutive windows from token `start` on; None if they have no keys."""
    step, factor = sequence.window, sequence.inverse_temperature
    first = max(0, start - sequence.reach)
    if count == 1:
        width = min(step, len(sequence.q) - start)
        length = min(start + sequence.ahead, len(sequence.k)) - first
    else:
        width, length = step, sequence.reach + sequence.ahead
    if length <= 0:
        return None
    q = _overlapping(sequence.q, start, width, step, count)
    # Dividing the queries by T divides the scores by T, exactly and in every kernel.
    q = q if factor is None else q * factor
    k = _overlapping(sequence.k, first, length, step, count)
    v = k if sequence.v is sequence.k else _overlapping(sequence.v, first, length, step, count)
    bias = _bias(sequence, start, first, width, length, count)
    causal = sequence.spans.causal
    # The fused call masks a triangle that begins at the first query by itself.
    triangle = causal and bias is None and first == start
    if causal and not triangle and step > 1:
        visible = torch.arange(first, first + length) <= torch.arange(start, start + width)[:, None]
        past = to_additive_mask(visible, q.dtype)[None, None]
        bias = past if bias is None else bias + past
    return Windows(q, k, v, bias, triangle, factor, sequence.spans.per_query_convergence)


def _overlapping(x: Tensor, start: int, length: int, step: int, count: int) -> Tensor:
    """Views (count, length, heads, size) of (tokens, heads, size), ``step`` tokens apart."""
    x = x[start : start + (count - 1) * step + length]
    return x.unfold(0, length, step).permute(0, 3, 1, 2)


def _bias(
    sequence: _Sequence, start: int, first: int, width: int, length: int, count: int
) -> Tensor | None:
    """Sum of soft edge and mask, broadcastable to (windows, heads, queries, keys)."""
    parts = []
    edge = sequence.spans.edge
    if edge is not None and sequence.edge_span is not None:
        key = torch.arange(first - start, first - start + length)
        weights = edge.log_mask(key, sequence.window, sequence.edge_span)
        parts.append(weights.to(sequence.q.dtype)[None])
    if sequence.mask is not None:
        last = (count - 1) * sequence.window
        rows = sequence.mask[:, start : start + last + width, first : first + last + length]
        tiles = rows.unfold(1, width, sequence.window).unfold(2, length, sequence.window)
        # The queries of window i meet the keys of window i.
        tiles = tiles.diagonal(dim1=1, dim2=2).permute(3, 0, 1, 2)
        parts.append(to_additive_mask(tiles, sequence.q.dtype))
    if not parts:
        return None
    bias = sum(parts[1:], start=parts[0])
    return bias[(None,) * (4 - bias.ndim)]


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
