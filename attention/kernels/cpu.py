"""The CPU kernel: one fused call a lane over all interior windows, at the cost of the visited keys.

The keys of neighbouring windows overlap, so they are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask: a masked call would score the masked
keys too. The few windows whose interval is clipped by an end of the sequence are computed apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..spans import Spans

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attend(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of every query over the interval of its window, window by window.

    Args:
        q: Queries on the CPU, shape (lanes, heads, tokens, head size).
        k: Keys, same shape.
        v: Values, same shape.
        spans: Window and span of each lane.
        active: Tokens to compute, boolean of shape (lanes, tokens), equal within a window; only
            their windows cost anything.

    Returns:
        Output, shaped like ``q``, and log-sum-exp of the scaled scores (lanes, heads, tokens).
        Gradients flow through the output, not through the log-sum-exp.
    """
    lanes = []
    windows, reaches = spans.window.tolist(), spans.span.tolist()
    for lane, (window, span) in enumerate(zip(windows, reaches, strict=True)):
        if span == 0:
            lanes.append(_nothing(q[lane]))
            continue
        todo = None if active is None else active[lane, ::window]
        lanes.append(_attend_lane(q[lane], k[lane], v[lane], window, span, todo))
    outs, lses = zip(*lanes, strict=True)
    return torch.stack(outs).transpose(1, 2), torch.stack(lses).transpose(1, 2)


def _attend_lane(
    q: Tensor, k: Tensor, v: Tensor, window: int, span: int, todo: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One lane: (heads, tokens, size) in, (tokens, heads, size) and (tokens, heads) out."""
    tokens = q.shape[1]
    windows = -(-tokens // window)
    reach = span - window
    # Interior windows see a whole interval of `reach + span` keys, whatever their index.
    first = -(-reach // window)
    last = max((tokens - span) // window + 1, first) if tokens >= span else first
    first = min(first, windows)
    last = min(last, windows)
    pieces = [_edge(q, k, v, window, span, i, todo) for i in range(first)]
    if last > first:
        pieces.append(_interior(q, k, v, window, span, first, last, todo))
    pieces += [_edge(q, k, v, window, span, i, todo) for i in range(max(first, last), windows)]
    outs, lses = zip(*pieces, strict=True)
    return torch.cat(outs), torch.cat(lses)


def _interior(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    span: int,
    first: int,
    last: int,
    todo: Tensor | None,
) -> tuple[Tensor, Tensor]:
    count, reach = last - first, span - window
    start = first * window
    queries = q[:, start : last * window].unflatten(1, (count, window)).transpose(0, 1)
    keys = _windows_of_keys(k[:, start - reach :], window, reach + span, count)
    values = (
        keys if v is k else _windows_of_keys(v[:, start - reach :], window, reach + span, count)
    )
    if todo is None or bool((chosen := todo[first:last]).all()):
        return _flatten(*_fused(queries, keys, values))
    index = chosen.nonzero().squeeze(1)
    out = queries.new_zeros(queries.shape)
    lse = queries.new_zeros(queries.shape[:-1], dtype=_lse_type(queries))
    if len(index):
        some_keys = keys[index]
        some_values = some_keys if values is keys else values[index]
        some_out, some_lse = _fused(queries[index], some_keys, some_values)
        out = out.index_copy(0, index, some_out)
        lse = lse.index_copy(0, index, some_lse)
    return _flatten(out, lse)


def _edge(
    q: Tensor, k: Tensor, v: Tensor, window: int, span: int, index: int, todo: Tensor | None
) -> tuple[Tensor, Tensor]:
    start = index * window
    queries = q[:, start : start + window]
    if todo is not None and not bool(todo[index]):
        return _nothing(queries)
    interval = slice(max(0, start - span + window), start + span)
    return _flatten(*_fused(queries[None], k[None, :, interval], v[None, :, interval]))


def _windows_of_keys(keys: Tensor, window: int, length: int, count: int) -> Tensor:
    """Overlapping views (count, heads, length, size) on the keys (heads, tokens, size)."""
    return keys.unfold(1, length, window)[:, :count].permute(1, 0, 3, 2)


def _flatten(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join windows: (windows, heads, window, size) -> (tokens, heads, size).

    A view on what the fused call returns, since it lays the heads innermost.
    """
    return out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)


def _nothing(q: Tensor) -> tuple[Tensor, Tensor]:
    heads, tokens, size = q.shape
    return q.new_zeros(tokens, heads, size), q.new_zeros((tokens, heads), dtype=_lse_type(q))


def _lse_type(q: Tensor) -> torch.dtype:
    """The log-sum-exp has at least single precision."""
    return torch.promote_types(q.dtype, torch.float32)
