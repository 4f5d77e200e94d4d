"""Blocks of windows on the CPU, and their iterative refinement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spangym.attention.kernels.refinement import convergence_threshold, not_converged

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Windows(NamedTuple):
    """Windows of equal length with equal numbers of keys; views where possible."""

    q: Tensor  # (windows, queries, heads, head size), divided by the temperature
    k: Tensor  # (windows, keys, heads, head size)
    v: Tensor  # the same tensor where keys are values
    bias: Tensor | None  # broadcastable to (windows, heads, queries, keys)
    triangle: bool  # query i sees the keys up to i, without a bias
    inverse_temperature: Tensor | None
    per_query_convergence: bool
    kept: tuple[Tensor, ...] | None = None  # queries of every pass but the first, if kept

    def attend(self) -> tuple[Tensor, Tensor]:
        """Output, shaped like the queries, and log-sum-exp (windows, queries, heads)."""
        q, k, v = self.q.transpose(1, 2), self.k.transpose(1, 2), self.v.transpose(1, 2)
        out, lse = _fused(q, k, v, 0.0, self.triangle, attn_mask=self.bias)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def updated_queries(self, out: Tensor) -> Tensor:
        """The queries of the next pass: the sum of those of this pass and its output."""
        factor = self.inverse_temperature
        if factor is None:
            return self.q + out
        if self.kept is not None or self.per_query_convergence:
            return torch.addcmul(self.q, out, factor)
        # Queries divided by a temperature are a copy that nothing else refers to.
        return self.q.addcmul_(out, factor)

    def with_queries(self, q: Tensor) -> Windows:
        """The windows with the queries of the next pass."""
        return self._replace(q=q, kept=None if self.kept is None else (*self.kept, q))

    def results(self, out: Tensor, passes: Tensor, lse: Tensor) -> tuple[Tensor, ...]:
        """What `refine` yields."""
        tokens = (each.flatten(0, 1) for each in (out, passes, lse, self.q))
        return *tokens, *(self.kept or ())

    def select(self, rows: slice) -> Windows:
        """Consecutive windows."""
        k, bias = self.k[rows], self.bias
        return self._replace(
            q=self.q[rows],
            k=k,
            v=k if self.v is self.k else self.v[rows],
            bias=bias if bias is None or len(bias) == 1 else bias[rows],
            kept=self.kept and tuple(each[rows] for each in self.kept),
        )


class Pass(NamedTuple):
    """State of windows whose queries stop separately, after a refinement pass."""

    windows: Windows  # with the queries of the pass
    out: Tensor  # (windows, queries, heads, head size)
    lse: Tensor  # (windows, queries, heads)
    prev_out: Tensor | None  # None after the first pass
    passes: Tensor  # (windows, queries)

    @classmethod
    def initial(cls, windows: Windows) -> Pass:
        """The first pass."""
        out, lse = windows.attend()
        return cls(windows, out, lse, None, torch.ones(out.shape[:2], dtype=torch.int64))

    def unconverged(self) -> Tensor:
        """Which queries need another pass, boolean, shaped like ``passes``.

        A query that has stopped keeps its output, whose change is therefore 0.
        """
        change = self.out.abs() if self.prev_out is None else (self.out - self.prev_out).abs_()
        # The sums are long: at least single precision.
        precise = torch.promote_types(change.dtype, torch.float32)
        return not_converged(change.flatten(2).mean(-1, dtype=precise))

    def next_pass(self, unconverged: Tensor) -> Pass:
        """The next pass over windows each of which has something unconverged."""
        chosen = unconverged[..., None]
        q = self.windows.updated_queries(self.out)
        windows = self.windows.with_queries(torch.where(chosen[..., None], q, self.windows.q))
        out, lse = windows.attend()
        out = torch.where(chosen[..., None], out, self.out)
        lse = torch.where(chosen, lse, self.lse)
        return Pass(windows, out, lse, self.out, self.passes + unconverged)

    def select(self, rows: slice) -> Pass:
        """Consecutive windows."""
        prev_out = None if self.prev_out is None else self.prev_out[rows]
        return Pass(
            self.windows.select(rows), self.out[rows], self.lse[rows], prev_out, self.passes[rows]
        )


def refine(
    windows: Windows, steps: int, keep_queries: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Refine windows until each has converged, at most ``steps`` passes.

    Yields:
        Output, passes, log-sum-exp and last queries of the tokens of consecutive windows, which
        have the same largest number of passes; with ``keep_queries`` also their queries in every
        pass but the first, each of shape (windows, queries, heads, head size).
    """
    if keep_queries:
        windows = windows._replace(kept=())
    if windows.per_query_convergence:
        for each in _refine(Pass.initial(windows), steps - 1):
            yield each.windows.results(each.out, each.passes, each.lse)
    else:
        yield from _refine_in_place(windows, None, 1, steps)


def _refine_in_place(
    windows: Windows, prev_out: Tensor | None, number: int, steps: int
) -> Iterator[tuple[Tensor, ...]]:
    """`_refine` of windows that stop together, from pass ``number`` on, in few small operations."""
    query, key, value = (each.transpose(1, 2) for each in windows[:3])
    precise = torch.promote_types(windows.q.dtype, torch.float32)
    threshold = convergence_threshold(windows.q[0].numel(), precise)
    while True:
        out, lse = _fused(query, key, value, 0.0, windows.triangle, attn_mask=windows.bias)
        out, lse = out.transpose(1, 2), lse.transpose(1, 2)
        if number == steps:
            yield windows.results(out, torch.full(out.shape[:2], number), lse)
            return
        change = out.abs() if prev_out is None else prev_out.sub_(out).abs_()
        is_left = [each >= threshold for each in change.flatten(1).sum(1, dtype=precise).tolist()]
        if not all(is_left):
            break
        windows = windows.with_queries(windows.updated_queries(out))
        query = windows.q.transpose(1, 2)
        prev_out, number = out, number + 1
    start = 0
    for left, run in itertools.groupby(is_left):
        rows = slice(start, start := start + len(list(run)))
        selected = windows.select(rows)
        if left:
            selected = selected.with_queries(selected.updated_queries(out[rows]))
            yield from _refine_in_place(selected, out[rows], number + 1, steps)
        else:
            passes = torch.full(selected.q.shape[:2], number)
            yield selected.results(out[rows], passes, lse[rows])


def _refine(state: Pass, steps_left: int) -> Iterator[Pass]:
    while steps_left:
        unconverged = state.unconverged()
        windows_left = unconverged.any(1)
        if not windows_left.all():
            break
        # Releases the memory of the output before the last, still in the cache, for the next pass.
        state = state._replace(prev_out=None)
        state = state.next_pass(unconverged)
        steps_left -= 1
    else:
        yield state
        return
    # Runs of neighbors are slices; any other selection would be a copy.
    start = 0
    for is_left, run in itertools.groupby(windows_left.tolist()):
        rows = slice(start, start := start + len(list(run)))
        if is_left:
            yield from _refine(state.select(rows).next_pass(unconverged[rows]), steps_left - 1)
        else:
            yield state.select(rows)
