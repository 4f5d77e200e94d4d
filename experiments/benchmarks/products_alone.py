"""The bound of refinement: its matrix products and exponentials, with nothing around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from spangym.attention.kernels import cpu
from spangym.attention.kernels.interface import KernelInputs

_MAX_SCORES = 1 << 17
"""Scores of one call: as fast as any, between 2**14 and 2**20, on one core."""


def products_alone(inputs: KernelInputs) -> Callable[[], None]:
    """Make a function that multiplies as many matrices of the same shapes as the local path.

    Every window, head and refinement pass is a pair of products with an exponential between them.
    Operands are contiguous and independent of each other, so that those of equal shape share a
    call; outputs are allocated in advance.

    Args:
        inputs: Inputs of the kernel on the CPU, without padding.
    """
    passes = cpu.attend(inputs).passes
    _, heads, tokens, size = inputs.q.shape
    first, end = inputs.spans.intervals(tokens, inputs.k.shape[2])
    shapes: Counter[tuple[int, int]] = Counter()
    for index, window in enumerate(inputs.spans.window.tolist()):
        for start in range(0, tokens, window):
            keys = int(end[index, start] - first[index, start])
            shapes[min(window, tokens - start), keys] += heads * int(passes[index, start])
    calls = []
    for (queries, keys), matrices in shapes.items():
        most = max(1, _MAX_SCORES // max(1, queries * keys))
        for done in range(0, matrices, most):
            count = min(most, matrices - done)
            q, k = (torch.randn(count, each, size) for each in (queries, keys))
            calls.append((q, k, torch.empty(count, queries, keys), torch.empty_like(q)))

    def multiply() -> None:
        for q, k, weights, out in calls:
            torch.bmm(q, k.transpose(1, 2), out=weights)
            weights.exp2_()
            torch.bmm(weights, k, out=out)

    return multiply
