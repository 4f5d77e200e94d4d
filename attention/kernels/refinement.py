"""Iterative focus: what it gives, when a window stops, and how it runs on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry


class KernelOutput(NamedTuple):
    """What a kernel gives.

    Attributes:
        output: Attention output, shape (batch, heads, queries, head size); 0 for a query that sees
            no key.
        passes: Passes that each query took, shape (batch, queries), int64; 0 where its interval is
            empty.
        log_sum_exp: Of the scaled scores of the last pass, shape (batch, heads, queries), at least
            float32; 0 for a query that sees no key. None unless details were asked for.
        last_query: The queries of each one's last pass, divided by its temperature, shaped like
            ``output``; likewise.
    """

    output: Tensor
    passes: Tensor
    log_sum_exp: Tensor | None = None
    last_query: Tensor | None = None


def not_converged(change: Tensor) -> Tensor:
    """Whether an output that changed so much in the last pass is to be focused further."""
    return change >= 1e-4 + 0.1 * change


def refine_masked(
    attend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    q: Tensor,
    spans: SpanGeometry,
    keys: int,
    steps: int,
    inverse_temperature: Tensor | None,
) -> KernelOutput:
    """Focus all sequences together, masking what has stopped: no value is read back to the host.

    Args:
        attend: One pass: queries and which of them are active, (batch, queries), to output and,
            if it is wanted, log-sum-exp.
        q: Queries, shape (batch, heads, queries, head size).
        spans: What each query sees.
        keys: Number of keys.
        steps: Most passes.
        inverse_temperature: What queries and outputs added to them are multiplied by, (batch,).

    Returns:
        Output, passes, log-sum-exp and the last queries.
    """
    first, end = spans.intervals(q.shape[-2], keys)
    active = end > first
    # Queries over T give scores over T: exact on every kernel.
    factor = None if inverse_temperature is None else inverse_temperature[:, None, None, None]
    dtype = q.dtype
    q = q if factor is None else (q * factor).to(dtype)
    out, lse = attend(q, active)
    passes, before = active.long(), torch.zeros_like(out)
    for _ in range(steps - 1):
        change = (out - before).detach().abs().float().mean((1, 3))
        # Were queries judged together, later ones would decide when earlier ones stop.
        change = change if spans.per_query_convergence else _window_mean(change, active, spans)
        active = active & not_converged(change)
        chosen = active[:, None, :, None]
        added = out if factor is None else (out * factor).to(dtype)
        q = torch.where(chosen, q + added, q)
        new, new_lse = attend(q, active)
        before, out = out, torch.where(chosen, new, out)
        if lse is not None and new_lse is not None:
            lse = torch.where(active[:, None], new_lse, lse)
        passes = passes + active
    return KernelOutput(out, passes, lse, q)


def _window_mean(values: Tensor, active: Tensor, spans: SpanGeometry) -> Tensor:
    """Mean of the active tokens' values over each token's window; all of shape (batch, tokens).

    Sums by doubling: atomic additions would round anew in each run on an accelerator.
    """
    tokens = values.shape[-1]
    start = spans.window_starts(tokens)
    place = torch.arange(tokens, device=values.device) - start
    # Of each token and those behind it in its window: the sum and the number.
    totals = torch.stack([values * active, active.to(values.dtype)])
    reach = 1
    while reach < tokens:
        behind = torch.nn.functional.pad(totals[..., reach:], (0, reach))
        totals = totals + behind * (place + reach < spans.window[:, None])
        reach *= 2
    sums, counts = totals.gather(-1, start.expand_as(totals))
    return sums / counts.clamp_min(1)
