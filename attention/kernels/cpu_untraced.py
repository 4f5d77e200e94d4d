"""The CPU kernel where `torch.compile` may be at work, which never traces it.

It is a module of its own because this decorator imports the compiler, which takes about a second.
"""

from __future__ import annotations

import torch

from spangym.attention.kernels import cpu
from spangym.attention.kernels.interface import KernelInputs, KernelOutput


@torch.compiler.disable(reason="windows depend on spans that are read on the host")
def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval; no gradient flows through the log-sum-exp."""
    return cpu.attend(inputs)
