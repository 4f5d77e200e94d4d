"""Iterative refinement: the stopping rule, and its loop for accelerators."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput


def not_converged(change: Tensor) -> Tensor:
    """Whether a mean absolute change of the output requires another pass."""
    return change >= 1e-4 + 0.1 * change


@functools.cache
def convergence_threshold(count: int, dtype: torch.dtype) -> float:
    """Smallest sum of absolute changes whose mean requires another pass.

    It is exact: sums of this dtype are at least the threshold if and only if `not_converged` holds
    for their quotient by ``count``, with all its roundings.

    Example:
        >>> round(convergence_threshold(1000, torch.float32), 5)
        0.11111
    """
    low, high = count * torch.tensor([1e-4, 2e-4], dtype=dtype)
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if not_converged(middle / count) else (middle, high)
    return high.item()


def refine_masked(
    attend_once: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    inputs: KernelInputs,
    stop_early: bool = False,
) -> KernelOutput:
    """Refine all sequences in parallel and mask those that have converged, without host reads.

    Args:
        attend_once: One pass: from queries and whether they are active, (batch, queries), to the
            output and optionally the log-sum-exp.
        inputs: Inputs of the kernel.
        stop_early: Whether to end when every query has converged, with a host read in each pass.
    """
    spans, factor, dtype = inputs.spans, inputs.inverse_temperature, inputs.q.dtype
    first, end = spans.intervals(inputs.q.shape[-2], inputs.k.shape[-2])
    active = end > first
    # Dividing the queries by T divides the scores by T, exactly and in every kernel.
    factor = None if factor is None else factor[(..., *(None,) * (4 - factor.ndim))]
    q = inputs.q if factor is None else (inputs.q * factor).to(dtype)
    out, lse = attend_once(q, active)
    passes, prev_out = active.long(), torch.zeros_like(out)
    for _ in range(inputs.steps - 1):
        change = (out - prev_out).detach().abs().float().mean((1, 3))
        if not spans.per_query_convergence:
            change = _window_mean(change, active, spans)
        active = active & not_converged(change)
        if stop_early and not active.any():
            break
        chosen = active[:, None, :, None]
        added = out if factor is None else (out * factor).to(dtype)
        q = torch.where(chosen, q + added, q)
        new, new_lse = attend_once(q, active)
        prev_out, out = out, torch.where(chosen, new, out)
        if lse is not None and new_lse is not None:
            lse = torch.where(active[:, None], new_lse, lse)
        passes = passes + active
    return KernelOutput(out, passes, lse, q)


def _window_mean(values: Tensor, active: Tensor, spans: SpanGeometry) -> Tensor:
    """Mean of the active tokens' values over each token's window; all of shape (batch, tokens).

    Sums are computed by doubling: atomic additions would not be deterministic on an accelerator.
    `torch.export` cannot record a number of doublings that depends on the length, and sums pairs of
    tokens, which the reference kernel scores anyway.
    """
    tokens = values.shape[-1]
    start = spans.window_starts(tokens)
    if torch.compiler.is_exporting():
        same_window = (start[:, :, None] == start[:, None]) & active[:, None]
        total = torch.where(same_window, values[:, None], 0).sum(-1)
        return total / same_window.sum(-1).clamp_min(1)
    position = torch.arange(tokens, device=values.device) - start
    # Sum and count over each token and those after it in its window.
    totals = torch.stack([values * active, active.to(values.dtype)])
    reach = 1
    while reach < tokens:
        later = torch.nn.functional.pad(totals[..., reach:], (0, reach))
        totals = totals + later * (position + reach < spans.window[:, None])
        reach *= 2
    sums, counts = totals.gather(-1, start.expand_as(totals))
    return sums / counts.clamp_min(1)
