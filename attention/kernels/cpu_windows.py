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
    earlier: tuple[Tensor, ...] | None = None  # queries of the passes before, if they are kept

    def attend(self) -> tuple[Tensor, Tensor]:
        """Output, shaped like the queries, and log-sum-exp (windows, queries, heads)."""
        q, k, v = self.q.transpose(1, 2), self.k.transpose(1, 2), self.v.transpose(1, 2)
        out, lse = _fused(q, k, v, 0.0, self.triangle, attn_mask=self.bias)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def with_updated_queries(self, out: Tensor) -> Windows:
        """Add the last output to the queries."""
        factor, earlier = self.inverse_temperature, self.earlier
        if earlier is not None:
            earlier = (*earlier, self.q)
        if factor is None:
            q = self.q + out
        elif earlier is not None or self.per_query_convergence:
            q = torch.addcmul(self.q, out, factor)
        else:
            # Queries divided by a temperature are a copy that nothing else refers to.
            q = self.q.addcmul_(out, factor)
        return self._replace(q=q, earlier=earlier)

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """Queries of every pass but the first, if they are kept."""
        return (*self.earlier[1:], self.q) if self.earlier else ()

    def select(self, rows: slice) -> Windows:
        """Consecutive windows."""
        k, bias = self.k[rows], self.bias
        return self._replace(
            q=self.q[rows],
            k=k,
            v=k if self.v is self.k else self.v[rows],
            bias=bias if bias is None or len(bias) == 1 else bias[rows],
            earlier=self.earlier and tuple(each[rows] for each in self.earlier),
        )


class Pass(NamedTuple):
    """State of some windows after a refinement pass."""

    windows: Windows  # with the queries of the pass
    out: Tensor  # (windows, queries, heads, head size)
    lse: Tensor  # (windows, queries, heads)
    prev_out: Tensor | None  # None after the first pass
    passes: Tensor  # (windows, queries) where each query stops by itself, else (windows, 1)

    @classmethod
    def initial(cls, windows: Windows) -> Pass:
        """The first pass."""
        out, lse = windows.attend()
        shape = out.shape[:2] if windows.per_query_convergence else (len(out), 1)
        return cls(windows, out, lse, None, torch.ones(shape, dtype=torch.int64))

    @torch.no_grad()
    def unconverged(self) -> Tensor:
        """Which windows or queries need another pass, boolean, shaped like ``passes``.

        A query that has stopped keeps its output, whose change is therefore 0.
        """
        change = self.out.abs() if self.prev_out is None else (self.out - self.prev_out).abs_()
        change = change.flatten(2 if self.windows.per_query_convergence else 1)
        # The sums are long: at least single precision.
        change = change.mean(-1, dtype=torch.promote_types(change.dtype, torch.float32))
        return not_converged(change.view(len(self.out), -1))

    def next_pass(self, unconverged: Tensor) -> Pass:
        """The next pass over windows each of which has something unconverged."""
        windows = self.windows.with_updated_queries(self.out)
        if not windows.per_query_convergence:
            out, lse = windows.attend()
        else:
            chosen = unconverged[..., None]
            q = torch.where(chosen[..., None], windows.q, self.windows.q)
            windows = windows._replace(q=q)
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

    def tokens(self) -> tuple[Tensor, ...]:
        """Results of the tokens of all windows in order; see `refine`."""
        passes, windows = self.passes.expand(self.out.shape[:2]), self.windows
        results = (self.out, passes, self.lse, windows.q, *windows.kept)
        return tuple(each.flatten(0, 1) for each in results)


def refine(
    windows: Windows, steps: int, keep_queries: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Refine windows until each has converged, at most ``steps`` passes.

    Yields:
        Output, passes, log-sum-exp and last queries of consecutive tokens; and if they are kept,
        the queries of every pass but the first.
    """
    if keep_queries:
        windows = windows._replace(earlier=())
    if windows.per_query_convergence:
        yield from (each.tokens() for each in _refine(Pass.initial(windows), steps - 1))
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
            yield _tokens(windows, out, lse, number)
            return
        change = out.abs() if prev_out is None else prev_out.sub_(out).abs_()
        is_left = [each >= threshold for each in change.flatten(1).sum(1, dtype=precise).tolist()]
        if not all(is_left):
            break
        windows = windows.with_updated_queries(out)
        query = windows.q.transpose(1, 2)
        prev_out, number = out, number + 1
    start = 0
    for left, run in itertools.groupby(is_left):
        rows = slice(start, start := start + len(list(run)))
        selected = windows.select(rows)
        if left:
            selected = selected.with_updated_queries(out[rows])
            yield from _refine_in_place(selected, out[rows], number + 1, steps)
        else:
            yield _tokens(selected, out[rows], lse[rows], number)


def _tokens(windows: Windows, out: Tensor, lse: Tensor, number: int) -> tuple[Tensor, ...]:
    passes = torch.full(out.shape[:2], number)
    return tuple(each.flatten(0, 1) for each in (out, passes, lse, windows.q, *windows.kept))


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
