"""Choice of the kernel for a device."""

from __future__ import annotations

from torch import Tensor

from spangym.attention.kernels import cpu, flex, reference
from spangym.attention.kernels.interface import Kernel


def select_kernel(x: Tensor) -> Kernel:
    """The fastest kernel for queries of this device, dtype and head size.

    Windows on the CPU, FlexAttention on CUDA where it is supported, otherwise the reference.
    """
    if x.device.type == "cpu":
        return cpu.attend
    if x.device.type == "cuda" and flex.unsupported_reason(x) is None:
        return flex.attend
    return reference.attend
