"""The CPU kernel: windows side by side in one fused call, at the cost of the visited keys.

The keys of neighbouring windows overlap, so they are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask: a masked call would score the masked
keys too. The few windows whose interval is clipped by an end of the sequence are computed apart.

All passes of iterative focus run on a block of windows before the next block is looked at, so that
its queries and outputs stay in a core's cache; windows that have stopped are left out of the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..spans import Spans
from .focus import Attended, moves_on
from .reference import additive, softmax_attention

_BLOCK = 1024
"""Tokens whose windows are focused together."""

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    *,
    mask: Tensor | None = None,
    steps: int = 1,
    gain: Tensor | None = None,
    details: bool = False,
) -> Attended:
    """Attention of every query over its interval, as `spangym.attention.kernels.Kernel` says.

    Gradients flow through the output, not through the log-sum-exp.
    """
    lanes, heads, queries, size = q.shape
    blocks = _blocks(q, k, v, spans, mask, steps, gain)
    wholes = [
        q.new_empty(lanes * queries, heads, size),
        q.new_empty(lanes * queries, dtype=torch.int64),
    ]
    if details:
        wholes += [
            q.new_empty(lanes * queries, heads, dtype=_precise(q)),
            q.new_empty(lanes * queries, heads, size),
        ]
    tracked = (q, k, v, mask, gain, None if spans.edge is None else spans.edge.span)
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
    window: int
    reach: int
    ahead: int
    spans: Spans
    number: int


@dataclass(frozen=True)
class _Windows:
    """Some windows of a lane: (windows, tokens, heads, size), and what is added to their scores."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None

    def attend(self) -> tuple[Tensor, Tensor]:
        q, k, v = (each.transpose(1, 2) for each in (self.q, self.k, self.v))
        if self.bias is not None and self.bias.requires_grad:
            out, lse = softmax_attention(q, k, v, self.bias)
        else:
            out, lse = _fused(q, k, v, attn_mask=self.bias)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def chosen(self, index: Tensor) -> _Windows:
        """Those windows alone."""
        k = self.k[index]
        bias = self.bias
        if bias is not None and len(bias) > 1:
            bias = bias[index]
        return _Windows(self.q[index], k, k if self.v is self.k else self.v[index], bias)


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Spans,
    mask: Tensor | None,
    steps: int,
    gain: Tensor | None,
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
        for start, count in _groups(lane):
            windows = _windows(lane, start, count)
            if windows is None:
                yield _nothing(q, min(window, some_queries - start))
            else:
                yield _focus(windows, steps, None if gain is None else gain[number], spans.causal)
        if some_queries < queries:
            yield _nothing(q, queries - some_queries)


def _groups(lane: _Lane) -> Iterator[tuple[int, int]]:
    """First token and number of the windows that are focused together."""
    window, tokens = lane.window, len(lane.q)
    windows = -(-tokens // window)
    # Interior windows see a whole interval of `reach + ahead` keys, whatever their index.
    first = min(-(-lane.reach // window), windows)
    last = max(min((len(lane.k) - lane.ahead) // window + 1, tokens // window), first)
    together = max(1, _BLOCK // window)
    edges = [*range(first), *range(last, windows)]
    blocks = [(index, min(together, last - index)) for index in range(first, last, together)]
    for index, count in sorted([(index, 1) for index in edges] + blocks):
        yield index * window, count


def _windows(lane: _Lane, start: int, count: int) -> _Windows | None:
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
    keys = _overlapping(lane.k, first, length, step, count)
    return _Windows(
        q=_overlapping(lane.q, start, width, step, count),
        k=keys,
        v=keys if lane.v is lane.k else _overlapping(lane.v, first, length, step, count),
        bias=_bias(lane, start, first, width, length, count),
    )


def _overlapping(x: Tensor, start: int, length: int, step: int, count: int) -> Tensor:
    """Views (count, length, heads, size) on (tokens, heads, size), ``step`` tokens apart."""
    x = x[start : start + (count - 1) * step + length]
    return x.unfold(0, length, step).permute(0, 3, 1, 2)


def _bias(
    lane: _Lane, start: int, first: int, width: int, length: int, count: int
) -> Tensor | None:
    """What is added to the scores, broadcastable to (windows, heads, queries, keys)."""
    parts = []
    key = torch.arange(first - start, first - start + length)
    if lane.spans.causal and lane.window > 1:
        seen = key <= torch.arange(width)[:, None]
        parts.append(additive(seen, lane.q.dtype))
    if lane.spans.edge is not None:
        edge = lane.spans.edge
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


def _focus(
    windows: _Windows, steps: int, gain: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Focus some windows until each has stopped.

    Returns:
        Output (tokens, heads, size), passes (tokens,), log-sum-exp (tokens, heads) and the last
        queries, shaped like the output.
    """
    settled: list[tuple[Tensor, ...]] = []
    numbers = torch.arange(len(windows.q))
    moving = torch.ones(windows.q.shape[:2], dtype=torch.bool)
    passes = torch.zeros(windows.q.shape[:2], dtype=torch.int64)
    out, lse = windows.attend()
    before = None
    for step in range(1, steps + 1):
        passes = passes + moving
        if step == steps:
            break
        moving = moving & moves_on(_change(out, before, causal))
        going = moving.any(1)
        count = int(going.sum())
        if count == 0:
            break
        if count < len(going):
            stopped, index = (~going).nonzero()[:, 0], going.nonzero()[:, 0]
            state = (numbers, out, passes, lse, windows.q)
            settled.append(tuple(each[stopped] for each in state))
            numbers, out, passes, lse = (each[index] for each in state[:-1])
            windows, moving = windows.chosen(index), moving[index]
        q = windows.q if gain is None else torch.addcmul(windows.q, out, gain)
        if causal:
            # Queries stop one by one here: later ones must not decide when earlier ones do.
            q = torch.where(moving[..., None, None], q, windows.q)
        windows = replace(windows, q=q)
        new, new_lse = windows.attend()
        if causal:
            new = torch.where(moving[..., None, None], new, out)
            new_lse = torch.where(moving[..., None], new_lse, lse)
        before, out, lse = out, new, new_lse
    settled.append((numbers, out, passes, lse, windows.q))
    if len(settled) > 1:
        columns = [torch.cat(column) for column in zip(*settled, strict=True)]
        order = columns[0].argsort()
        settled = [tuple(column[order] for column in columns)]
    _, out, passes, lse, q = (each.flatten(0, min(1, each.ndim - 1)) for each in settled[0])
    return out, passes, lse, q


@torch.no_grad()
def _change(out: Tensor, before: Tensor | None, causal: bool) -> Tensor:
    """Mean absolute change, of each query (windows, tokens) or of each window (windows, 1)."""
    rows = out.flatten(2) if causal else out.flatten(1)[:, None]
    if before is None:
        return rows.abs().float().mean(-1)
    # The distance of one vector to one other: a single pass over both, nothing written.
    rows, others = (each.reshape(-1, 1, rows.shape[-1]) for each in (rows, before))
    if rows.dtype not in (torch.float32, torch.float64):
        rows, others = rows.float(), others.float()
    change = torch.cdist(rows, others, p=1) / rows.shape[-1]
    return change.view(len(out), -1)


def _nothing(q: Tensor, tokens: int) -> tuple[Tensor, ...]:
    """What queries get that see no key."""
    heads, size = q.shape[1], q.shape[3]
    out = q.new_zeros(tokens, heads, size)
    lse = q.new_zeros(tokens, heads, dtype=_precise(q))
    return out, q.new_zeros(tokens, dtype=torch.int64), lse, out


def _precise(q: Tensor) -> torch.dtype:
    """The log-sum-exp has at least single precision."""
    return torch.promote_types(q.dtype, torch.float32)
