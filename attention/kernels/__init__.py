"""Kernels of the local path: one signature, several ways to compute it.

A kernel takes queries, keys and values of shape (lanes, heads, tokens, head size), the `Spans` of
the lanes and, optionally, which tokens' windows are still active, and returns the attention output
(same shape as the queries) with its log-sum-exp (lanes, heads, tokens). Queries are scaled by
``1 / sqrt(head size)``. Queries that see no key, or whose window is not active, get output 0 and
log-sum-exp 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..spans import Spans
from . import cpu, reference

Kernel = Callable[[Tensor, Tensor, Tensor, Spans, Tensor | None], tuple[Tensor, Tensor]]


def for_device(device: torch.device) -> Kernel:
    """The kernel for tensors on a device: strided windows on the CPU, else the reference."""
    return cpu.attend if device.type == "cpu" else reference.attend


__all__ = ["Kernel", "cpu", "for_device", "reference"]
