"""The CPU kernel: windows side by side in one fused call, at the cost of the visited keys.

The keys of neighboring windows overlap, so they are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask: a masked call would score the masked
keys too. The few windows whose interval is clipped by an end of the sequence are computed apart.

Short sequences are scored whole (`spangym.attention.kernels.cpu_dense`).

All passes of iterative focus run on a block of windows before the next block is looked at, so that
its queries and outputs stay in a core's cache (`spangym.attention.kernels.cpu_windows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels import cpu_dense
from spangym.attention.kernels.cpu_windows import Windows, refine
from spangym.attention.kernels.reference import to_additive_mask
from spangym.attention.kernels.refinement import KernelOutput

_BLOCK = 256
"""Tokens whose windows are focused together; four times as many where there is but one pass."""


@torch.compiler.disable(reason="its windows are cut by spans that are read on the host")
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: SpanGeometry,
    *,
    mask: Tensor | None = None,
    steps: int = 1,
    inverse_temperature: Tensor | None = None,
    return_lse: bool = False,
) -> KernelOutput:
    """Attention of every query over its interval, as `spangym.attention.kernels.Kernel` says.

    Gradients flow through the output, not through the log-sum-exp.
    """
    # The fused call reads heads as runs of numbers, and does not look whether they are.
    q, k, v = (
        _last_dim_contiguous(q),
        (shared := _last_dim_contiguous(k)),
        shared if v is k else _last_dim_contiguous(v),
    )
    if cpu_dense.is_supported(q, k, spans, mask, steps):
        return cpu_dense.attend(q, k, v, spans, steps, inverse_temperature)
    batch, heads, queries, size = q.shape
    blocks = _blocks(q, k, v, spans, mask, steps, inverse_temperature)
    wholes = [
        q.new_empty(batch * queries, heads, size),
        q.new_empty(batch * queries, dtype=torch.int64),
    ]
    if return_lse:
        wholes += [
            q.new_empty(batch * queries, heads, dtype=_accum_dtype(q)),
            q.new_empty(batch * queries, heads, size),
        ]
    tracked = (q, k, v, mask, inverse_temperature, None if spans.edge is None else spans.edge.span)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tracked):
        parts = list(blocks)
        wholes = [torch.cat(column) for column in list(zip(*parts, strict=True))[: len(wholes)]]
    else:
        at = 0
        for block in blocks:
            tokens = len(block[0])
            for whole, part in zip(wholes, block, strict=False):
                whole[at : at + tokens] = part
            at += tokens
    out, passes, *more = (whole.unflatten(0, (batch, queries)) for whole in wholes)
    return KernelOutput(out.transpose(1, 2), passes, *(each.transpose(1, 2) for each in more))


@dataclass(frozen=True)
class _Sequence:
    """One sequence: queries and keys of shape (tokens, heads, size), and its geometry on the host."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    inverse_temperature: Tensor | None
    window: int
    reach: int
    ahead: int
    spans: SpanGeometry
    number: int


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: SpanGeometry,
    mask: Tensor | None,
    steps: int,
    inverse_temperature: Tensor | None,
) -> Iterator[tuple[Tensor, ...]]:
    """Output, passes, log-sum-exp and last queries of consecutive tokens, one sequence after another."""
    batch, _, queries, _ = q.shape
    keys = k.shape[2]
    on_host = zip(
        spans.window.tolist(),
        spans.span.tolist(),
        [queries] * batch if spans.query_lengths is None else spans.query_lengths.tolist(),
        [keys] * batch if spans.key_lengths is None else spans.key_lengths.tolist(),
        strict=True,
    )
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(batch, -1, queries, keys)
    for number, (window, span, some_queries, some_keys) in enumerate(on_host):
        if span == 0 or some_keys == 0 or some_queries == 0:
            yield _empty_output(q, queries)
            continue
        sequence_keys = k[number, :, :some_keys].transpose(0, 1)
        sequence = _Sequence(
            inverse_temperature=None
            if inverse_temperature is None
            else inverse_temperature[number],
            q=q[number, :, :some_queries].transpose(0, 1),
            k=sequence_keys,
            v=sequence_keys if v is k else v[number, :, :some_keys].transpose(0, 1),
            mask=None if mask is None else mask[number, :, :some_queries, :some_keys],
            window=window,
            reach=span - window + spans.soft_margin,
            ahead=window if spans.causal else span + spans.soft_margin,
            spans=spans,
            number=number,
        )
        windows_per_block = max(1, (_BLOCK if steps > 1 else 4 * _BLOCK) // window)
        for start, count in _groups(sequence, windows_per_block):
            windows = _windows(sequence, start, count)
            if windows is None:
                yield _empty_output(q, min(window, some_queries - start))
            else:
                for settled in refine(windows, steps):
                    yield settled.tokens()
        if some_queries < queries:
            yield _empty_output(q, queries - some_queries)


def _groups(sequence: _Sequence, windows_per_block: int) -> Iterator[tuple[int, int]]:
    """First token and number of the windows that are focused together: at most so many."""
    window, tokens = sequence.window, len(sequence.q)
    windows = -(-tokens // window)
    # Interior windows see a whole interval of `reach + ahead` keys, whatever their index.
    first = min(-(-sequence.reach // window), windows)
    last = max(min((len(sequence.k) - sequence.ahead) // window + 1, tokens // window), first)
    edges = [*range(first), *range(last, windows)]
    blocks = [
        (index, min(windows_per_block, last - index))
        for index in range(first, last, windows_per_block)
    ]
    for index, count in sorted([(index, 1) for index in edges] + blocks):
        yield index * window, count


def _windows(sequence: _Sequence, start: int, count: int) -> Windows | None:
    """The windows from a token on; None if they see no key."""
    step = sequence.window
    first = max(0, start - sequence.reach)
    if count == 1:
        width = min(step, len(sequence.q) - start)
        length = min(start + sequence.ahead, len(sequence.k)) - first
    else:
        width, length = step, sequence.reach + sequence.ahead
    if length <= 0:
        return None
    q = _overlapping(sequence.q, start, width, step, count)
    # Queries over T give scores over T: exact on every kernel.
    factor = sequence.inverse_temperature
    k = _overlapping(sequence.k, first, length, step, count)
    v = k if sequence.v is sequence.k else _overlapping(sequence.v, first, length, step, count)
    bias = _bias(sequence, start, first, width, length, count)
    causal = sequence.spans.causal
    # A triangle that begins with the window is one that the fused call knows by itself.
    triangle = causal and bias is None and first == start
    if causal and not triangle and step > 1:
        seen = torch.arange(first, first + length) <= torch.arange(start, start + width)[:, None]
        seen = to_additive_mask(seen, q.dtype)[None, None]
        bias = seen if bias is None else bias + seen
    q = q if factor is None else q * factor
    return Windows(q, k, v, bias, triangle, factor, sequence.spans.per_query_convergence)


def _overlapping(x: Tensor, start: int, length: int, step: int, count: int) -> Tensor:
    """Views (count, length, heads, size) on (tokens, heads, size), ``step`` tokens apart."""
    x = x[start : start + (count - 1) * step + length]
    return x.unfold(0, length, step).permute(0, 3, 1, 2)


def _bias(
    sequence: _Sequence, start: int, first: int, width: int, length: int, count: int
) -> Tensor | None:
    """What a soft edge and a mask add, broadcastable to (windows, heads, queries, keys)."""
    parts = []
    if sequence.spans.edge is not None:
        edge = sequence.spans.edge
        key = torch.arange(first - start, first - start + length)
        weights = edge.log_mask(key, sequence.window, edge.span[sequence.number])
        parts.append(weights.to(sequence.q.dtype)[None])
    if sequence.mask is not None:
        last = (count - 1) * sequence.window
        rows = sequence.mask[:, start : start + last + width, first : first + last + length]
        tiles = rows.unfold(1, width, sequence.window).unfold(2, length, sequence.window)
        # Window i's queries meet window i's keys.
        tiles = tiles.diagonal(dim1=1, dim2=2).permute(3, 0, 1, 2)
        parts.append(to_additive_mask(tiles, sequence.q.dtype))
    if not parts:
        return None
    bias = sum(parts[1:], start=parts[0])
    return bias[(None,) * (4 - bias.ndim)]


def _last_dim_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_output(q: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """What queries get that see no key."""
    heads, size = q.shape[1], q.shape[3]
    out = q.new_zeros(tokens, heads, size)
    lse = q.new_zeros(tokens, heads, dtype=_accum_dtype(q))
    return out, q.new_zeros(tokens, dtype=torch.int64), lse, out


def _accum_dtype(q: Tensor) -> torch.dtype:
    """The log-sum-exp has at least single precision."""
    return torch.promote_types(q.dtype, torch.float32)
