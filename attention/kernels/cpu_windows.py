"""Windows side by side on the CPU, and their iterative focus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spangym.attention.kernels.reference import softmax_attention
from spangym.attention.kernels.refinement import not_converged

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Windows(NamedTuple):
    """Windows of one length, each with as many keys; views wherever they can be.

    Attributes:
        q: Queries, divided by the temperature, shape (windows, queries, heads, head size).
        k: Keys, shape (windows, keys, heads, head size).
        v: Values, same shape; the same tensor where keys are values.
        bias: Added to the scores, broadcastable to (windows, heads, queries, keys).
        triangle: Whether query ``i`` sees the keys up to ``i``, and there is no bias.
        inverse_temperature: What outputs are multiplied by before they are added to the queries.
        per_query_convergence: Whether queries stop one by one: later ones must not decide when earlier ones do.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    triangle: bool
    inverse_temperature: Tensor | None
    per_query_convergence: bool

    def attend(self) -> tuple[Tensor, Tensor]:
        """Output, shaped like the queries, and log-sum-exp (windows, queries, heads)."""
        q, k, v = self.q.transpose(1, 2), self.k.transpose(1, 2), self.v.transpose(1, 2)
        if self.bias is not None and self.bias.requires_grad:
            out, lse = softmax_attention(q, k, v, self.bias)
        else:
            out, lse = _fused(q, k, v, 0.0, self.triangle, attn_mask=self.bias)
        return out.transpose(1, 2), lse.transpose(1, 2)

    def with_updated_queries(self, out: Tensor) -> Windows:
        """The same windows, their last output added to their queries."""
        factor = self.inverse_temperature
        if factor is None:
            return self._replace(q=self.q + out)
        if torch.is_grad_enabled() or self.per_query_convergence:
            return self._replace(q=torch.addcmul(self.q, out, factor))
        # Queries divided by a temperature are a copy already, and in no one else's hands.
        return self._replace(q=self.q.addcmul_(out, factor))

    def run(self, rows: slice) -> Windows:
        """Consecutive windows of them."""
        k, bias = self.k[rows], self.bias
        return self._replace(
            q=self.q[rows],
            k=k,
            v=k if self.v is self.k else self.v[rows],
            bias=bias if bias is None or len(bias) == 1 else bias[rows],
        )


class Pass(NamedTuple):
    """The last pass over some windows, and what the next one is judged by.

    Attributes:
        windows: The windows, with the queries of that pass.
        out: Its output.
        lse: Its log-sum-exp.
        prev_out: Output of the pass before; None after the first.
        passes: Passes so far, int64, of each query (windows, queries) where they stop one by one,
            else of each window (windows, 1).
    """

    windows: Windows
    out: Tensor
    lse: Tensor
    prev_out: Tensor | None
    passes: Tensor

    @classmethod
    def initial(cls, windows: Windows) -> Pass:
        """The first pass."""
        out, lse = windows.attend()
        shape = out.shape[:2] if windows.per_query_convergence else (len(out), 1)
        return cls(windows, out, lse, None, torch.ones(shape, dtype=torch.int64))

    def unconverged(self) -> Tensor:
        """What is to be focused further, boolean, shaped like ``passes``.

        A query that has stopped keeps its output, which therefore changes no more.
        """
        return not_converged(_change(self.out, self.prev_out, self.windows.per_query_convergence))

    def next_pass(self, moving: Tensor) -> Pass:
        """The next pass, over windows in each of which something is moving."""
        windows = self.windows.with_updated_queries(self.out)
        if not windows.per_query_convergence:
            out, lse = windows.attend()
        else:
            chosen = moving[..., None]
            q = torch.where(chosen[..., None], windows.q, self.windows.q)
            windows = windows._replace(q=q)
            out, lse = windows.attend()
            out = torch.where(chosen[..., None], out, self.out)
            lse = torch.where(chosen, lse, self.lse)
        return Pass(windows, out, lse, self.out, self.passes + moving)

    def run(self, rows: slice) -> Pass:
        """Consecutive windows of it."""
        return Pass(
            self.windows.run(rows),
            self.out[rows],
            self.lse[rows],
            None if self.prev_out is None else self.prev_out[rows],
            self.passes[rows],
        )

    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Output, passes, log-sum-exp and queries of the windows' tokens, in a row."""
        passes = self.passes.expand(self.out.shape[:2]).flatten()
        return self.out.flatten(0, 1), passes, self.lse.flatten(0, 1), self.windows.q.flatten(0, 1)


def refine(windows: Windows, steps: int) -> Iterator[Pass]:
    """Focus windows until each has stopped, or for so many passes; they come back in order."""
    yield from _refine(Pass.initial(windows), steps - 1)


def _refine(state: Pass, left: int) -> Iterator[Pass]:
    while left:
        moving = state.unconverged()
        going = moving.any(1)
        if not going.all():
            break
        # What is not needed any more is let go, so that its memory, still in cache, is used again.
        state = state._replace(prev_out=None)
        state = state.next_pass(moving)
        left -= 1
    else:
        yield state
        return
    # Windows that go on are taken in runs of neighbors: a slice where a choice would be a copy.
    start = 0
    for unconverged, run in itertools.groupby(going.tolist()):
        rows = slice(start, start := start + len(list(run)))
        if unconverged:
            yield from _refine(state.run(rows).next_pass(moving[rows]), left - 1)
        else:
            yield state.run(rows)


@torch.no_grad()
def _change(out: Tensor, prev_out: Tensor | None, per_query_convergence: bool) -> Tensor:
    """Mean absolute change, of each query (windows, queries) or of each window (windows, 1)."""
    change = out.abs() if prev_out is None else (out - prev_out).abs_()
    # At least in single precision, as the sums are long.
    change = change.flatten(2 if per_query_convergence else 1)
    change = change.mean(-1, dtype=torch.promote_types(change.dtype, torch.float32))
    return change.view(len(out), -1)
