"""The CPU kernel: windows side by side in one fused call, at the cost of the visited keys.

The keys of neighbouring windows overlap, so they are read as a strided view of the sequence
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

from spangym.attention.geometry import Spans
from spangym.attention.kernels import cpu_dense
from spangym.attention.kernels.cpu_windows import Windows, focus
from spangym.attention.kernels.reference import additive
from spangym.attention.kernels.refinement import Attended

_BLOCK = 256
"""Tokens whose windows are focused together; four times as many where there is but one pass."""


@torch.compiler.disable(reason="its windows are cut by spans that are read on the host")
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    *,
    mask: Tensor | None = None,
    steps: int = 1,
    inverse_temperature: Tensor | None = None,
    details: bool = False,
) -> Attended:
    """Attention of every query over its interval, as `spangym.attention.kernels.Kernel` says.

    Gradients flow through the output, not through the log-sum-exp.
    """
    # The fused call reads heads as runs of numbers, and does not look whether they are.
    q, k, v = _runs(q), (shared := _runs(k)), shared if v is k else _runs(v)
    if cpu_dense.takes(q, k, spans, mask, steps):
        return cpu_dense.attend(q, k, v, spans, steps, inverse_temperature)
    lanes, heads, queries, size = q.shape
    blocks = _blocks(q, k, v, spans, mask, steps, inverse_temperature)
    wholes = [
        q.new_empty(lanes * queries, heads, size),
        q.new_empty(lanes * queries, dtype=torch.int64),
    ]
    if details:
        wholes += [
            q.new_empty(lanes * queries, heads, dtype=_precise(q)),
            q.new_empty(lanes * queries, heads, size),
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
    out, passes, *more = (whole.unflatten(0, (lanes, queries)) for whole in wholes)
    return Attended(out.transpose(1, 2), passes, *(each.transpose(1, 2) for each in more))


@dataclass(frozen=True)
class _Lane:
    """One lane: queries and keys of shape (tokens, heads, size), and its geometry on the host."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    inverse_temperature: Tensor | None
    window: int
    reach: int
    ahead: int
    spans: Spans
    number: int


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    mask: Tensor | None,
    steps: int,
    inverse_temperature: Tensor | None,
) -> Iterator[tuple[Tensor, ...]]:
    """Output, passes, log-sum-exp and last queries of consecutive tokens, lane after lane."""
    lanes, _, queries, _ = q.shape
    keys = k.shape[2]
    on_host = zip(
        spans.window.tolist(),
        spans.span.tolist(),
        [queries] * lanes if spans.query_lengths is None else spans.query_lengths.tolist(),
        [keys] * lanes if spans.key_lengths is None else spans.key_lengths.tolist(),
        strict=True,
    )
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(lanes, -1, queries, keys)
    for number, (window, span, some_queries, some_keys) in enumerate(on_host):
        if span == 0 or some_keys == 0 or some_queries == 0:
            yield _nothing(q, queries)
            continue
        lane_keys = k[number, :, :some_keys].transpose(0, 1)
        lane = _Lane(
            inverse_temperature=None
            if inverse_temperature is None
            else inverse_temperature[number],
            q=q[number, :, :some_queries].transpose(0, 1),
            k=lane_keys,
            v=lane_keys if v is k else v[number, :, :some_keys].transpose(0, 1),
            mask=None if mask is None else mask[number, :, :some_queries, :some_keys],
            window=window,
            reach=span - window + spans.margin,
            ahead=window if spans.causal else span + spans.margin,
            spans=spans,
            number=number,
        )
        together = max(1, (_BLOCK if steps > 1 else 4 * _BLOCK) // window)
        for start, count in _groups(lane, together):
            windows = _windows(lane, start, count)
            if windows is None:
                yield _nothing(q, min(window, some_queries - start))
            else:
                for settled in focus(windows, steps):
                    yield settled.tokens()
        if some_queries < queries:
            yield _nothing(q, queries - some_queries)


def _groups(lane: _Lane, together: int) -> Iterator[tuple[int, int]]:
    """First token and number of the windows that are focused together: at most so many."""
    window, tokens = lane.window, len(lane.q)
    windows = -(-tokens // window)
    # Interior windows see a whole interval of `reach + ahead` keys, whatever their index.
    first = min(-(-lane.reach // window), windows)
    last = max(min((len(lane.k) - lane.ahead) // window + 1, tokens // window), first)
    edges = [*range(first), *range(last, windows)]
    blocks = [(index, min(together, last - index)) for index in range(first, last, together)]
    for index, count in sorted([(index, 1) for index in edges] + blocks):
        yield index * window, count


def _windows(lane: _Lane, start: int, count: int) -> Windows | None:
    """The windows from a token on; None if they see no key."""
    step = lane.window
    first = max(0, start - lane.reach)
    if count == 1:
        width = min(step, len(lane.q) - start)
        length = min(start + lane.ahead, len(lane.k)) - first
    else:
        width, length = step, lane.reach + lane.ahead
    if length <= 0:
        return None
    q = _overlapping(lane.q, start, width, step, count)
    # Queries over T give scores over T: exact on every kernel.
    factor = lane.inverse_temperature
    k = _overlapping(lane.k, first, length, step, count)
    v = k if lane.v is lane.k else _overlapping(lane.v, first, length, step, count)
    bias = _bias(lane, start, first, width, length, count)
    causal = lane.spans.causal
    # A triangle that begins with the window is one that the fused call knows by itself.
    triangle = causal and bias is None and first == start
    if causal and not triangle and step > 1:
        seen = torch.arange(first, first + length) <= torch.arange(start, start + width)[:, None]
        seen = additive(seen, q.dtype)[None, None]
        bias = seen if bias is None else bias + seen
    q = q if factor is None else q * factor
    return Windows(q, k, v, bias, triangle, factor, lane.spans.singly)


def _overlapping(x: Tensor, start: int, length: int, step: int, count: int) -> Tensor:
    """Views (count, length, heads, size) on (tokens, heads, size), ``step`` tokens apart."""
    x = x[start : start + (count - 1) * step + length]
    return x.unfold(0, length, step).permute(0, 3, 1, 2)


def _bias(
    lane: _Lane, start: int, first: int, width: int, length: int, count: int
) -> Tensor | None:
    """What a soft edge and a mask add, broadcastable to (windows, heads, queries, keys)."""
    parts = []
    if lane.spans.edge is not None:
        edge = lane.spans.edge
        key = torch.arange(first - start, first - start + length)
        weights = edge.log_weight(key, lane.window, edge.span[lane.number])
        parts.append(weights.to(lane.q.dtype)[None])
    if lane.mask is not None:
        last = (count - 1) * lane.window
        rows = lane.mask[:, start : start + last + width, first : first + last + length]
        tiles = rows.unfold(1, width, lane.window).unfold(2, length, lane.window)
        # Window i's queries meet window i's keys.
        tiles = tiles.diagonal(dim1=1, dim2=2).permute(3, 0, 1, 2)
        parts.append(additive(tiles, lane.q.dtype))
    if not parts:
        return None
    bias = sum(parts[1:], start=parts[0])
    return bias[(None,) * (4 - bias.ndim)]


def _runs(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _nothing(q: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """What queries get that see no key."""
    heads, size = q.shape[1], q.shape[3]
    out = q.new_zeros(tokens, heads, size)
    lse = q.new_zeros(tokens, heads, dtype=_precise(q))
    return out, q.new_zeros(tokens, dtype=torch.int64), lse, out


def _precise(q: Tensor) -> torch.dtype:
    """The log-sum-exp has at least single precision."""
    return torch.promote_types(q.dtype, torch.float32)
