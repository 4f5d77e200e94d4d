"""Inputs and outputs that all kernels of the local path share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from spangym.attention.geometry import SpanGeometry


@dataclass(frozen=True)
class KernelInputs:
    """Attention of every query over its interval of keys, refined over several passes.

    Scores are ``q·k / (sqrt(head size) · T)``. A pass is repeated with ``q <- q + out``, keys and
    values fixed. A window stops when ``d < 1e-4 + 0.1·d``, where ``d`` is the mean absolute change
    of its output, and keeps its last output. With ``spans.per_query_convergence`` each query stops
    by itself.

    Attributes:
        q: Queries, shape (batch, heads, queries, head size).
        k: Keys, shape (batch, heads, keys, head size).
        v: Values, same shape; passing the same tensor as ``k`` saves work.
        spans: Interval of keys of each query.
        mask: Boolean (True: attend) or added to the scores; broadcastable to (batch, heads,
            queries, keys). Default: none.
        steps: Maximum number of passes. Default: 1.
        inverse_temperature: ``1 / T`` of each sequence, shape (batch,), or of each head, shape
            (batch, heads) in the dtype of the queries. Default: 1.
        return_lse: Whether to return the log-sum-exp and the queries of the last pass.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    spans: SpanGeometry
    mask: Tensor | None = None
    steps: int = 1
    inverse_temperature: Tensor | None = None
    return_lse: bool = False


class KernelOutput(NamedTuple):
    """Output of a kernel.

    Attributes:
        output: Attention output, shape (batch, heads, queries, head size); 0 for a query without
            visible keys.
        passes: Number of passes of each query, shape (batch, queries), int64; 0 where the interval
            is empty.
        log_sum_exp: Log-sum-exp of the scaled scores of the last pass, shape (batch, heads,
            queries), at least float32; 0 for a query without visible keys. Default: None.
        last_query: Queries of the last pass, divided by the temperature, shaped like ``output``.
            Default: None.
    """

    output: Tensor
    passes: Tensor
    log_sum_exp: Tensor | None = None
    last_query: Tensor | None = None


Kernel = Callable[[KernelInputs], KernelOutput]
