"""How the CPU kernel cuts the sequences of a batch into blocks of windows.

The intervals of neighboring windows overlap and are read as a strided view of the sequence
(`torch.Tensor.unfold`), without a copy and without a mask. A window whose interval is clipped by an
end of the sequence is a block of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.cpu_windows import Windows
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.kernels.reference import to_additive_mask

_BLOCK = 256
"""Tokens of a block of windows with refinement; four times as many with a single pass."""


@dataclass(frozen=True)
class Sequence:
    """One sequence: (tokens, heads, head size), with its geometry on the host."""

    index: int  # in the batch
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None  # that of all sequences, with four dimensions
    inverse_temperature: Tensor | None  # shape () or (heads, 1)
    spans: SpanGeometry
    edge_span: Tensor | None
    window: int
    reach: int
    ahead: int


@dataclass(frozen=True)
class Block:
    """Consecutive windows of a sequence with equal numbers of queries and of keys."""

    sequence: Sequence
    start: int  # first token
    count: int  # windows

    @property
    def queries(self) -> int:
        """Queries of each window."""
        return min(self.sequence.window, len(self.sequence.q) - self.start)

    @property
    def first_key(self) -> int:
        """First key of the first window."""
        return max(0, self.start - self.sequence.reach)

    @property
    def keys(self) -> int:
        """Keys of each window; not positive if there are none."""
        return min(self.start + self.sequence.ahead, len(self.sequence.k)) - self.first_key

    @property
    def tokens(self) -> int:
        """Queries of all windows."""
        return self.count * self.queries

    def windows(self) -> Windows:
        """The windows, as views of the sequence where possible."""
        return self.windows_with(self.mask_part(self.sequence.mask), self.sequence.edge_span)

    def windows_with(self, mask: Tensor | None, edge_span: Tensor | None) -> Windows:
        """The windows with this `mask_part` and this span of the soft edge."""
        sequence, factor = self.sequence, self.sequence.inverse_temperature
        start, width, first, length = self.start, self.queries, self.first_key, self.keys
        spans, geometry = sequence.spans, (sequence.window, self.count)
        q = overlapping(sequence.q, start, width, *geometry)
        # Dividing the queries by T divides the scores by T, exactly and in every kernel.
        q = q if factor is None else q * factor
        k = overlapping(sequence.k, first, length, *geometry)
        is_value = sequence.v is sequence.k
        v = k if is_value else overlapping(sequence.v, first, length, *geometry)
        bias = self._bias(mask, edge_span)
        # The fused call masks a triangle that begins at the first query by itself.
        triangle = spans.causal and bias is None and first == start
        if spans.causal and not triangle and sequence.window > 1:
            key, query = torch.arange(first, first + length), torch.arange(start, start + width)
            past = to_additive_mask(key <= query[:, None], q.dtype)[None, None]
            bias = past if bias is None else bias + past
        return Windows(q, k, v, bias, triangle, factor, spans.per_query_convergence)

    def mask_part(self, mask: Tensor | None) -> Tensor | None:
        """View of what the windows read of a mask of four dimensions, each of which may be 1."""
        if mask is None:
            return None
        last = (self.count - 1) * self.sequence.window
        parts = (
            slice(self.sequence.index, self.sequence.index + 1),
            slice(None),
            slice(self.start, self.start + last + self.queries),
            slice(self.first_key, self.first_key + last + self.keys),
        )
        sizes = zip(parts, mask.shape, strict=True)
        return mask[tuple(part if size > 1 else slice(None) for part, size in sizes)]

    def _bias(self, mask: Tensor | None, edge_span: Tensor | None) -> Tensor | None:
        """Sum of soft edge and mask, broadcastable to (windows, heads, queries, keys)."""
        sequence, window, width, length = (
            self.sequence,
            self.sequence.window,
            self.queries,
            self.keys,
        )
        edge, parts = sequence.spans.edge, []
        if edge is not None and edge_span is not None:
            key = torch.arange(length) - (self.start - self.first_key)
            weights = edge.log_mask(key, window, edge_span)
            parts.append(weights.to(sequence.q.dtype)[None])
        if mask is not None:
            last = (self.count - 1) * window
            rows = mask[0].expand(-1, last + width, last + length)
            tiles = rows.unfold(1, width, window).unfold(2, length, window)
            # The queries of window i meet the keys of window i.
            tiles = tiles.diagonal(dim1=1, dim2=2).permute(3, 0, 1, 2)
            parts.append(to_additive_mask(tiles, sequence.q.dtype))
        if not parts:
            return None
        bias = sum(parts[1:], start=parts[0])
        return bias[(None,) * (4 - bias.ndim)]


def blocks(inputs: KernelInputs, max_tokens: int | None = None) -> Iterator[Block | int]:
    """The blocks of all sequences in order; for tokens without visible keys, their number.

    A block of several windows has at most ``max_tokens`` tokens; by default as many as the fused
    call is fastest with.
    """
    q, k, v, spans, mask = inputs.q, inputs.k, inputs.v, inputs.spans, inputs.mask
    (batch, _, queries, _), keys = q.shape, k.shape[2]
    if max_tokens is None:
        max_tokens = _BLOCK if inputs.steps > 1 else 4 * _BLOCK
    on_host = zip(
        spans.window.tolist(),
        spans.span.tolist(),
        [queries] * batch if spans.query_lengths is None else spans.query_lengths.tolist(),
        [keys] * batch if spans.key_lengths is None else spans.key_lengths.tolist(),
        strict=True,
    )
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    for index, (window, span, num_queries, num_keys) in enumerate(on_host):
        if span == 0 or num_keys == 0 or num_queries == 0:
            yield queries
            continue
        own_k = k[index, :, :num_keys].transpose(0, 1)
        factor = inputs.inverse_temperature
        if factor is not None:
            factor = factor[index] if factor.ndim == 1 else factor[index, :, None]
        sequence = Sequence(
            index=index,
            q=q[index, :, :num_queries].transpose(0, 1),
            k=own_k,
            v=own_k if v is k else v[index, :, :num_keys].transpose(0, 1),
            mask=mask,
            inverse_temperature=factor,
            spans=spans,
            edge_span=None if spans.edge is None else spans.edge.span[index],
            window=window,
            reach=span - window + spans.soft_margin,
            ahead=window if spans.causal else span + spans.soft_margin,
        )
        for block in _blocks(sequence, max(1, max_tokens // window)):
            yield block if block.keys > 0 else block.queries
        if num_queries < queries:
            yield queries - num_queries


def _blocks(sequence: Sequence, windows_per_block: int) -> Iterator[Block]:
    window, tokens = sequence.window, len(sequence.q)
    num_windows = -(-tokens // window)
    # The interval of an interior window has `reach + ahead` keys.
    first = min(-(-sequence.reach // window), num_windows)
    last = max(min((len(sequence.k) - sequence.ahead) // window + 1, tokens // window), first)
    clipped = [(index, 1) for index in (*range(first), *range(last, num_windows))]
    interior = [
        (index, min(windows_per_block, last - index))
        for index in range(first, last, windows_per_block)
    ]
    for index, count in sorted(clipped + interior):
        yield Block(sequence, index * window, count)


def overlapping(x: Tensor, start: int, length: int, step: int, count: int) -> Tensor:
    """Views (count, length, heads, size) of (tokens, heads, size), ``step`` tokens apart."""
    x = x[start : start + (count - 1) * step + length]
    return x.unfold(0, length, step).permute(0, 3, 1, 2)
