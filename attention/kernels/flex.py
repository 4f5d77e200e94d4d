"""The kernel of accelerators: FlexAttention with a block mask computed from the intervals.

Every query sees one interval of keys. A tile of queries therefore visits the tiles of keys from its
smallest first key to its largest end, and needs no mask in the tiles within all its intervals. This
takes a few operations on (batch, tiles); the mask of all query-key pairs is never made. Shapes are
static and spans are tensors: one compilation serves all spans, and nothing is read on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from spangym.attention.geometry import SoftEdge, SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import to_additive_mask
from spangym.attention.kernels.refinement import refine_masked

BLOCK_SIZE = 128
"""Queries and keys of a tile."""

MAX_COMPILATIONS = 128
"""Most kinds of calls in a process: dtypes, head sizes and kinds of masks are compiled for each.
PyTorch raises an error after 8 by default."""


def unsupported_reason(x: Tensor) -> str | None:
    """Why the compiled kernel does not take queries like these; None if it does."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"FlexAttention takes float32, bfloat16 and float16, not {x.dtype}"
    if x.shape[-1] < 16:
        return f"FlexAttention takes heads of at least 16 dimensions, not {x.shape[-1]}"
    return None


def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval."""
    # Separate views: otherwise the compiler guards on which arguments are one tensor.
    k, v = inputs.k.view_as(inputs.k), inputs.v.view_as(inputs.v)
    queries, keys = inputs.q.shape[-2], k.shape[-2]
    first, end = inputs.spans.intervals(queries, keys)
    score_mod = _score_mod(inputs.spans, queries, keys, inputs.mask)
    fused: Callable[..., Any] = (
        _compiled() if k.is_cuda and not torch.compiler.is_compiling() else flex_attention
    )

    def attend_once(q: Tensor, active: Tensor) -> tuple[Tensor, Tensor | None]:
        blocks = block_mask(torch.where(active, first, 0), torch.where(active, end, 0), keys)
        if not inputs.return_lse:
            return fused(q, k, v, score_mod=score_mod, block_mask=blocks), None
        out, aux = fused(
            q, k, v, score_mod=score_mod, block_mask=blocks, return_aux=AuxRequest(lse=True)
        )
        return out, aux.lse.masked_fill(aux.lse == -torch.inf, 0.0)

    return refine_masked(attend_once, inputs)


def block_mask(first: Tensor, end: Tensor, keys: int) -> BlockMask:
    """Block mask of queries that each see one interval of keys, equal for all heads.

    It equals that of `torch.nn.attention.flex_attention.create_block_mask`, which tries all pairs.

    Args:
        first: First key of each query, shape (batch, queries), int64.
        end: End of the interval, same shape; at most ``first`` for a query without visible keys.
        keys: Number of keys.
    """
    queries = first.shape[-1]
    # Queries without visible keys, and the padding of the last tile, do not count.
    blind = end <= first
    first_of = _tiles(first.masked_fill(blind, keys), filler=keys)
    end_of = _tiles(end.masked_fill(blind, 0), filler=0)
    columns = -(-keys // BLOCK_SIZE)
    visited_from, visited_to = _floor(first_of.amin(-1)), _ceil(end_of.amax(-1))
    full_from, full_to = _ceil(first_of.amax(-1)), _floor(end_of.amin(-1))
    full = (full_to - full_from).clamp_min(0)
    full_from = torch.where(full > 0, full_from, visited_to)
    partial = (visited_to - visited_from).clamp_min(0) - full
    column = torch.arange(columns, device=first.device)
    before = (full_from - visited_from)[..., None]
    index = visited_from[..., None] + column
    partial_index = torch.where(column < before, index, index + full[..., None])
    full_index = full_from[..., None] + column

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        return (key >= first[batch, query]) & (key < end[batch, query])

    blocks = []
    for counts, indices in ((partial, partial_index), (full, full_index)):
        # Entries beyond the count are not read but must be valid indices.
        blocks += [counts[:, None].int(), indices[:, None].clamp(0, columns - 1).int()]
    return BlockMask.from_kv_blocks(
        *blocks, BLOCK_SIZE=BLOCK_SIZE, mask_mod=visible, seq_lengths=(queries, keys)
    )


def _tiles(values: Tensor, filler: int) -> Tensor:
    """(batch, queries) as (batch, tiles, queries of a tile)."""
    padding = (0, -values.shape[-1] % BLOCK_SIZE)
    return torch.nn.functional.pad(values, padding, value=filler).unflatten(-1, (-1, BLOCK_SIZE))


def _floor(positions: Tensor) -> Tensor:
    return positions.div(BLOCK_SIZE, rounding_mode="floor")


def _ceil(positions: Tensor) -> Tensor:
    return _floor(positions + BLOCK_SIZE - 1)


def _score_mod(
    spans: SpanGeometry, queries: int, keys: int, mask: Tensor | None
) -> Callable[..., Tensor] | None:
    """Function that adds soft edge and mask to a score; None if there is neither."""
    if spans.edge is None and mask is None:
        return None
    window, start, soft_edge_width = spans.window, spans.window_starts(queries), spans.soft_margin
    span = None if spans.edge is None else spans.edge.span
    if mask is not None:
        mask = to_additive_mask(mask, torch.float32)[(None,) * (4 - mask.ndim)]
        mask = mask.expand(window.shape[0], -1, queries, keys)
    by_head = int(mask is not None and mask.shape[1] > 1)

    def mod(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if span is not None:
            edge = SoftEdge(span, soft_edge_width)
            score = score + edge.log_mask(key - start[batch, query], window[batch], span[batch])
        if mask is not None:
            score = score + mask[batch, head * by_head, query, key]
        return score

    return mod


@functools.cache
def _compiled() -> Callable[..., Any]:
    # A partial compilation would fall back to operations that materialize all scores.
    compiled = torch.compile(flex_attention, fullgraph=True)
    return torch._dynamo.config.patch(recompile_limit=MAX_COMPILATIONS)(compiled)
