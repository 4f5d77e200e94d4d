"""Refinement of windows on the CPU by batched matrix products, without gradients.

The fused call is made for long sequences and large heads. With small heads, much of its time is
overhead: here the scores of many windows and heads are one product, in a buffer that stays in the
cache, and windows of different shapes share the other operations of a pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spangym.attention.kernels.cpu_blocks import Block
from spangym.attention.kernels.cpu_windows import Windows
from spangym.attention.kernels.refinement import convergence_threshold

MAX_HEAD_SIZE = 32
MIN_WINDOW = 4
"""Largest head size and shortest window.

Measured on one core of an AMD EPYC (Zen 5), 10 passes over 256 and 1,024 tokens, windows of 4 to
128 tokens, against the fused call: 0.65 to 1 of its time with heads of 8 and 16, 0.75 to 1 with
heads of 32, 0.95 to 1.2 with heads of 64. Windows of 1 and 2 tokens take up to twice the time.
"""

_MAX_QK_PAIRS = 1 << 16
"""Largest number of query-key pairs of a window and head; more gain nothing."""

_MAX_SCORES = 1 << 17
"""Scores of one product: 512 KiB in single precision, faster than half and as fast as twice."""

_MAX_TOKENS = 256
"""Tokens of the blocks that are refined together, as of one block."""

_MAX_POWERS = 1 << 15
"""Numbers of one call that takes powers: PyTorch gives so many to one thread.

The last few numbers of a thread are rounded differently, and results must not depend on threads.
"""

SAFE_SUMS = (2.0**-64, 2.0**64)
"""Sums of weights within which nothing underflows or overflows that affects the output."""


def exp2_(x: Tensor) -> None:
    """Powers of two of a one-dimensional tensor, in place; the same with any number of threads."""
    for part in x.split(_MAX_POWERS):
        part.exp2_()


def join(blocks: Iterable[Block | int], steps: int) -> Iterator[Block | int | list[Block]]:
    """Join consecutive blocks that `refine` takes together; keep the others."""
    joined: list[Block] = []
    for block in blocks:
        is_joinable = not isinstance(block, int) and steps > 1 and _is_supported(block)
        if joined and not (is_joinable and _continues(joined, block)):
            yield joined
            joined = []
        if isinstance(block, int) or not is_joinable:
            yield block
        else:
            joined.append(block)
    if joined:
        yield joined


def _is_supported(block: Block) -> bool:
    """Whether these products are exact and faster for a block: a rule of shapes and options."""
    sequence = block.sequence
    return (
        sequence.mask is None
        and sequence.edge_span is None
        and not sequence.spans.per_query_convergence
        and sequence.q.dtype.itemsize > 2
        and sequence.q.shape[-1] <= MAX_HEAD_SIZE
        and sequence.window >= MIN_WINDOW
        and block.queries * block.keys <= _MAX_QK_PAIRS
    )


def _continues(joined: list[Block], block: Block | int) -> bool:
    tokens = sum(each.count * each.queries for each in joined)
    is_next = isinstance(block, Block) and joined[0].sequence is block.sequence
    return is_next and tokens < _MAX_TOKENS


def refine(blocks: list[Block], steps: int, return_lse: bool) -> list[Tensor]:
    """Refine consecutive windows until each has converged, at most ``steps`` passes.

    Returns:
        Output, passes and, if asked for, log-sum-exp and queries of the tokens in order.
    """
    state = _Refinement([each.windows() for each in blocks], return_lse)
    for number in range(1, steps):
        state.attend()
        state.store_converged(number)
        if not state.runs:
            return state.results
        state.update_queries()
    state.attend()
    for run in state.runs:
        state.store(run, steps)
    return state.results


class _Group(NamedTuple):
    """Windows of equal shape: views of the buffers, one matrix for each window and head."""

    first_window: int
    first_row: int
    windows: int
    queries: int
    threshold: float  # sum of absolute changes from which on a window needs another pass
    q: Tensor  # (matrices, queries, head size)
    k: Tensor  # (matrices, head size, keys)
    v: Tensor  # (matrices, keys, head size)
    offset: Tensor  # (matrices, queries, 1)
    sums: Tensor  # (matrices, queries, 1)
    weighted: Tensor  # (matrices, queries, head size)


class _Run(NamedTuple):
    """Consecutive windows of a group that have not converged."""

    group: _Group
    start: int
    end: int


class _Product(NamedTuple):
    """Matrices that are multiplied in one call, and the part of the buffer for their scores."""

    q: Tensor
    k: Tensor
    v: Tensor
    offset: Tensor
    sums: Tensor
    weighted: Tensor
    scores: Tensor


class _Refinement:
    """State of consecutive windows, with rows in the order (windows, heads, queries).

    The weight of a key is 2 to the power of its score plus an offset. The offset of a row keeps the
    sum of its weights near 1: it is the negative log-sum-exp of the pass before. The rows of
    windows that have converged are not multiplied any more; other operations include them.

    Args:
        windows: Consecutive windows of a sequence, all of the same length but the last.
        return_lse: Whether to return log-sum-exp and queries.
    """

    def __init__(self, windows: list[Windows], return_lse: bool) -> None:
        first = windows[0].q
        _, queries, self.heads, self.size = first.shape
        tokens = sum(each.q.shape[0] * each.q.shape[1] for each in windows)
        rows = tokens * self.heads
        # `weighted` holds the weighted sums of values, and then the change of the output.
        buffers = first.new_empty(4, rows, self.size)
        self.q, self.out, self.prev_out, self.weighted = buffers
        self.offset, self.sums = first.new_zeros(2, rows, 1)
        self.scores = first.new_empty(_MAX_SCORES)
        # PyTorch leaves powers of e to a library that is slow on some processors.
        self.scale = math.log2(math.e) / math.sqrt(self.size)
        self.window_numel = queries * self.heads * self.size
        self.groups = list(self._groups(windows))
        self.factor = self._by_row(windows[0].inverse_temperature)
        out = first.new_empty(tokens, self.heads, self.size)
        self.results = [out, torch.empty(tokens, dtype=torch.int64)]
        if return_lse:
            self.results += [first.new_empty(tokens, self.heads), torch.empty_like(out)]
        self.runs = [_Run(group, 0, group.windows) for group in self.groups]
        self.chunks = list(self._chunks())

    def _groups(self, windows: list[Windows]) -> Iterator[_Group]:
        window = row = 0
        for each in windows:
            count, queries = each.q.shape[:2]
            matrices = count * self.heads
            rows = slice(row, row + matrices * queries)
            q = self.q[rows].view(count, self.heads, queries, -1).copy_(each.q.transpose(1, 2))
            v = each.v.transpose(1, 2).contiguous()
            k = v if each.k is each.v else each.k.transpose(1, 2).contiguous()
            yield _Group(
                window,
                row,
                count,
                queries,
                convergence_threshold(each.q[0].numel(), q.dtype),
                q.view(matrices, queries, -1),
                k.view(matrices, -1, self.size).transpose(1, 2),
                v.view(matrices, -1, self.size),
                self.offset[rows].view(matrices, queries, 1),
                self.sums[rows].view(matrices, queries, 1),
                self.weighted[rows].view(matrices, queries, -1),
            )
            window, row = window + count, rows.stop

    def _by_row(self, factor: Tensor | None) -> Tensor | None:
        """The inverse temperature, one number for each row if heads differ."""
        if factor is None or factor.ndim == 0:
            return factor
        rows = [factor.expand(each.windows, -1, each.queries).flatten() for each in self.groups]
        return torch.cat(rows)[:, None]

    def _chunks(self) -> Iterator[tuple[Tensor, list[_Product]]]:
        """Products whose scores fit in the buffer together, after that part of the buffer."""
        products: list[_Product] = []
        used = 0
        for group, start, end in self.runs:
            shape = group.queries, group.v.shape[1]
            first, stop = start * self.heads, end * self.heads
            while first < stop:
                count = min((_MAX_SCORES - used) // math.prod(shape), stop - first)
                if count == 0:
                    yield self.scores[:used], products
                    products, used = [], 0
                    continue
                scores = self.scores[used : used + count * math.prod(shape)]
                matrices = (group.q, group.k, group.v, group.offset, group.sums, group.weighted)
                if count < len(group.q):
                    rows = slice(first, first + count)
                    matrices = tuple(each[rows] for each in matrices)
                products.append(_Product._make((*matrices, scores.view(count, *shape))))
                first, used = first + count, used + scores.numel()
        yield self.scores[:used], products

    def attend(self) -> None:
        """Run a pass over the windows that have not converged."""
        self._weigh()
        low, high = self.sums.aminmax()
        if not SAFE_SUMS[0] <= low.item() <= high.item() <= SAFE_SUMS[1]:
            for _, products in self.chunks:
                for each in products:
                    self._score(each, beta=0)
                    torch.amax(each.scores, -1, keepdim=True, out=each.offset).neg_()
            self._weigh()
        self.out, self.prev_out = self.prev_out, self.out
        torch.div(self.weighted, self.sums, out=self.out)

    def _weigh(self) -> None:
        """Compute the sums of the weights and of the weighted values."""
        for scores, products in self.chunks:
            for each in products:
                self._score(each, beta=1)
            exp2_(scores)
            for each in products:
                torch.sum(each.scores, -1, keepdim=True, out=each.sums)
                torch.bmm(each.scores, each.v, out=each.weighted)

    def _score(self, product: _Product, *, beta: int) -> None:
        """Compute scores and add ``beta`` times their offsets."""
        offset, q, k, scores = product.offset, product.q, product.k, product.scores
        torch.baddbmm(offset, q, k, beta=beta, alpha=self.scale, out=scores)

    def store_converged(self, number: int) -> None:
        """Store the windows that need no pass after pass ``number``."""
        if number == 1:
            torch.abs(self.out, out=self.weighted)
        else:
            torch.sub(self.out, self.prev_out, out=self.weighted).abs_()
        changes = self._sums_of_windows(self.weighted.view(-1))
        by_run = [
            [each >= group.threshold for each in changes[group.first_window :][start:end]]
            for group, start, end in self.runs
        ]
        if all(map(all, by_run)):
            return
        runs = []
        for (group, end, _), is_left in zip(self.runs, by_run, strict=True):
            for left, windows in itertools.groupby(is_left):
                run = _Run(group, end, end := end + len(list(windows)))
                if left:
                    runs.append(run)
                else:
                    self.store(run, number)
        self.runs = runs
        self.chunks = list(self._chunks())

    def _sums_of_windows(self, x: Tensor) -> list[float]:
        full = len(x) // self.window_numel * self.window_numel
        sums = x[:full].view(-1, self.window_numel).sum(1).tolist()
        return sums if full == len(x) else [*sums, x[full:].sum().item()]

    def update_queries(self) -> None:
        """Add the output to the queries."""
        if self.factor is None:
            self.q.add_(self.out)
        else:
            self.q.addcmul_(self.out, self.factor)
        self.offset.sub_(self.sums.log2())

    def store(self, run: _Run, number: int) -> None:
        """Store the results of windows that ``number`` passes were run over."""
        group, start, end = run
        shape = end - start, self.heads, group.queries, -1
        first = group.first_row + start * self.heads * group.queries
        rows = slice(first, first + math.prod(shape[:3]))
        tokens = slice(first // self.heads, rows.stop // self.heads)
        out, passes, *more = self.results
        passes[tokens] = number
        found = [(out, self.out[rows])]
        if more:
            log_sum_exp = (self.sums[rows].log2() - self.offset[rows]) * math.log(2)
            found += zip(more, (log_sum_exp, self.q[rows]), strict=True)
        for result, own in found:
            by_query = own.view(shape).transpose(1, 2)
            result[tokens].view(by_query.shape).copy_(by_query)
        self.sums[rows] = 1
