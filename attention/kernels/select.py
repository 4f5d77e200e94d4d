"""Choice of the kernel for a device."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from spangym.attention.kernels import cpu, flex, reference
from spangym.attention.kernels.interface import Kernel


def select_kernel(x: Tensor) -> Kernel:
    """The fastest kernel for queries of this device, dtype and head size.

    Windows on the CPU, FlexAttention on CUDA where it is supported, otherwise the reference. The
    reference consists of plain operations without host reads, as `torch.export` requires. They can
    be differentiated twice, so it also runs where fused attention is disabled, for example by
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    """
    if torch.compiler.is_exporting():
        return reference.attend
    # Not traceable; compiled functions cannot be differentiated twice.
    if not torch.compiler.is_compiling() and not torch.backends.cuda.flash_sdp_enabled():
        return reference.attend
    if x.device.type == "cpu":
        if "torch._dynamo" in sys.modules:
            from spangym.attention.kernels import cpu_untraced

            return cpu_untraced.attend
        return cpu.attend
    if x.device.type == "cuda" and flex.unsupported_reason(x) is None:
        return flex.attend
    return reference.attend
