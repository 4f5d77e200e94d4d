"""The CPU kernel: windows side by side in one fused call, at the cost of the visited keys.

The keys of neighbouring windows overlap, so they are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask: a masked call would score the masked
keys too. The few windows whose interval is clipped by an end of the sequence are computed apart.

All passes of iterative focus run on a block of windows before the next block is looked at, so that
its queries and outputs stay in a core's cache; windows that have stopped are left out of the block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..spans import Spans
from .focus import Attended, moves_on
from .reference import additive, softmax_attention

_BLOCK = 256
"""Tokens whose windows are focused together; four times as many where there is but one pass."""

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

    def run(self, rows: slice) -> _Windows:
        """Consecutive windows of them."""
        k, bias = self.k[rows], self.bias
        if bias is not None and len(bias) > 1:
            bias = bias[rows]
        return _Windows(self.q[rows], k, k if self.v is self.k else self.v[rows], bias)


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
        together = max(1, (_BLOCK if steps > 1 else 4 * _BLOCK) // window)
        for start, count in _groups(lane, together):
            windows = _windows(lane, start, count)
            if windows is None:
                yield _nothing(q, min(window, some_queries - start))
            else:
                own_gain = None if gain is None else gain[number]
                first = _Pass.first(windows, spans.causal)
                for settled in _focus(first, steps - 1, own_gain, spans.causal):
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


@dataclass(frozen=True)
class _Pass:
    """The last pass over some windows, and what the next one is judged by.

    What stops is a query where spans are causal, lest later ones decide when earlier ones do; else
    a window: ``moving`` and ``passes`` are of shape (windows, tokens) or (windows, 1).
    """

    windows: _Windows
    out: Tensor
    lse: Tensor
    before: Tensor | None
    moving: Tensor
    passes: Tensor

    @classmethod
    def first(cls, windows: _Windows, causal: bool) -> _Pass:
        """The first pass."""
        out, lse = windows.attend()
        moving = torch.ones(out.shape[:2] if causal else (len(out), 1), dtype=torch.bool)
        return cls(windows, out, lse, None, moving, moving.long())

    def following(self, moving: Tensor, gain: Tensor | None, causal: bool) -> _Pass:
        """The next pass over those that are moving; in each window at least one query is."""
        windows = self.windows
        q = windows.q if gain is None else torch.addcmul(windows.q, self.out, gain)
        if causal:
            q = torch.where(moving[..., None, None], q, windows.q)
        windows = replace(windows, q=q)
        out, lse = windows.attend()
        if causal:
            out = torch.where(moving[..., None, None], out, self.out)
            lse = torch.where(moving[..., None], lse, self.lse)
        return _Pass(windows, out, lse, self.out, moving, self.passes + moving)

    def run(self, start: int, stop: int) -> _Pass:
        """Consecutive windows of it."""
        if stop - start == len(self.out):
            return self
        rows = slice(start, stop)
        return _Pass(
            self.windows.run(rows),
            self.out[rows],
            self.lse[rows],
            None if self.before is None else self.before[rows],
            self.moving[rows],
            self.passes[rows],
        )

    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, passes, log-sum-exp and queries of the windows' tokens, in a row."""
        passes = self.passes.expand(self.out.shape[:2]).flatten()
        return self.out.flatten(0, 1), passes, self.lse.flatten(0, 1), self.windows.q.flatten(0, 1)


def _focus(state: _Pass, left: int, gain: Tensor | None, causal: bool) -> Iterator[_Pass]:
    """Focus until each window has stopped or no passes are left; windows come back in order.

    Windows that go on are taken in runs of neighbours: a slice where a selection would be a copy.
    """
    while left:
        moving = state.moving & moves_on(_change(state.out, state.before, causal))
        going = moving.any(1)
        if not going.all():
            break
        # Rebound, so that the pass before is let go and its memory, still in cache, used again.
        state = state.following(moving, gain, causal)
        left -= 1
    else:
        yield state
        return
    start = 0
    for goes_on, run in itertools.groupby(going.tolist()):
        stop = start + len(list(run))
        part = state.run(start, stop)
        if goes_on:
            part = part.following(moving[start:stop], gain, causal)
            yield from _focus(part, left - 1, gain, causal)
        else:
            yield part
        start = stop


@torch.no_grad()
def _change(out: Tensor, before: Tensor | None, causal: bool) -> Tensor:
    """Mean absolute change, of each query (windows, tokens) or of each window (windows, 1)."""
    change = out.abs() if before is None else (out - before).abs_()
    # At least in single precision, as the sums are long.
    change = change.flatten(2 if causal else 1)
    change = change.mean(-1, dtype=torch.promote_types(change.dtype, torch.float32))
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
