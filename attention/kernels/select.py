"""Kernels of the local path: one signature, several ways to compute it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels import cpu, flex, reference
from spangym.attention.kernels.refinement import KernelOutput


class Kernel(Protocol):
    """Attention of every query over its interval of keys, focused over several passes."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spans: SpanGeometry,
        *,
        mask: Tensor | None = None,
        steps: int = 1,
        inverse_temperature: Tensor | None = None,
        return_lse: bool = False,
    ) -> KernelOutput:
        """Attend.

        Scores are ``q·k / (sqrt(head size) · T)``. A pass is repeated with ``q <- q + out``, keys
        and values fixed. A window stops by itself when ``d < 1e-4 + 0.1·d``, ``d`` the mean
        absolute change of its output, and keeps the output it stopped at; where spans are causal,
        each query stops by itself.

        Args:
            q: Queries, shape (batch, heads, queries, head size).
            k: Keys, shape (batch, heads, keys, head size).
            v: Values, same shape as the keys. Handing in the same tensor saves work.
            spans: What each query sees.
            mask: Boolean (True: may be seen) or added to the scores; broadcastable to (batch,
                heads, queries, keys).
            steps: Most passes.
            inverse_temperature: ``1 / T`` of each sequence, shape (batch,); 1 if None.
            return_lse: Whether the log-sum-exp and the queries of the last pass are wanted.

        Returns:
            The output, and what it took.
        """
        ...


def select_kernel(x: Tensor) -> Kernel:
    """The kernel for tensors of this device, type and head size.

    Strided windows on the CPU, FlexAttention on CUDA where it takes them, else the reference.
    """
    if x.device.type == "cpu":
        return cpu.attend
    if x.device.type == "cuda" and flex.unsupported_reason(x) is None:
        return flex.attend
    return reference.attend
