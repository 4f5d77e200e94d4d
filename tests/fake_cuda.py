"""Tensors that say they are on a CUDA device and hold nothing, in every build of PyTorch.

Shapes, dtypes and devices are computed as on the device. Operations on several devices and reads of
numbers on the host raise; copies between host and device are recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import AuxOutput, BlockMask
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from spangym.attention.kernels import flex

DEVICE = torch.device("cuda:0")


class Transfers(TorchDispatchMode):
    """Records copies between host and device.

    Attributes:
        to_host: Operations that copy to the host, each of which waits for the device.
        waiting: Copies to the device that wait for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_host: list[str] = []
        self.waiting: list[str] = []

    def clear(self) -> None:
        """Forget all copies."""
        self.to_host.clear()
        self.waiting.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            devices = {each.device.type for each in (source, result) if isinstance(each, Tensor)}
            moved = devices == {"cpu", "cuda"}
            does_not_wait = (kwargs or {}).get("non_blocking") or True in args[2:]
            if moved and result.device.type == "cpu":
                self.to_host.append(str(func))
            elif moved and not does_not_wait:
                self.waiting.append(str(func))
        return result


@contextlib.contextmanager
def fake_cuda() -> Iterator[Transfers]:
    """Compute with fake tensors; a build without CUDA has no gradients then."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(flex, "_compiled", lambda: _flex_attention)
        patch.setattr(Tensor, "numpy", _numpy)
        if torch.version.cuda is None:
            # These methods take a device guard, which the build does not have.
            patch.setattr(Tensor, "contiguous", lambda x, **_: torch.ops.aten.contiguous(x))
            operators: dict[Any, Callable[..., Any]] = {
                Tensor.__invert__: torch.bitwise_not,
                Tensor.__getitem__: _getitem,
                Tensor.__setitem__: _setitem,
            }
            stack.enter_context(_ReplacedOperators(operators))
            stack.enter_context(torch.no_grad())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Transfers())


class _ReplacedOperators(TorchFunctionMode):
    """Calls functions in place of operators of tensors.

    They are not patched: a class keeps slots of operators that were set and deleted again.
    """

    def __init__(self, operators: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._operators:
            func = self._operators[func]
        return func(*args, **(kwargs or {}))


def to_fake_cuda(module: nn.Module) -> Any:
    """Replace all parameters and buffers of a module by fake ones, within `fake_cuda`."""
    for each in module.modules():
        for name, tensor in each._parameters.items():
            if tensor is not None:
                fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
                requires_grad = tensor.requires_grad and torch.is_grad_enabled()
                each._parameters[name] = nn.Parameter(fake, requires_grad)
        for name, tensor in each._buffers.items():
            if tensor is not None:
                each._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
    return module


def _flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: BlockMask | None = None,
    return_aux: object = None,
) -> Any:
    """FlexAttention as plain operations, its functions of scores and masks included."""
    assert block_mask is not None
    assert {each.device for each in block_mask.as_tuple() if isinstance(each, Tensor)} == {DEVICE}
    score = (q @ k.transpose(-1, -2)).float()
    index = torch.meshgrid(*(torch.arange(n, device=DEVICE) for n in score.shape), indexing="ij")
    if score_mod is not None:
        score = score_mod(score, *index)
    score = score.masked_fill(~block_mask.mask_mod(*index), -torch.inf)
    out = score.softmax(-1).to(v.dtype) @ v
    return out if return_aux is None else (out, AuxOutput(lse=score.logsumexp(-1)))


def _numpy(x: Tensor) -> Any:
    assert x.device.type == "cpu"
    return np.zeros(tuple(x.shape), str(x.dtype).removeprefix("torch."))


def _getitem(x: Tensor, index: Any) -> Tensor:
    view, positions = _basic_index(x, index)
    has_positions = any(each is not None for each in positions)
    return torch.ops.aten.index(view, positions) if has_positions else view


def _setitem(x: Tensor, index: Any, value: Any) -> None:
    view, positions = _basic_index(x, index)
    value = value if isinstance(value, Tensor) else view.new_full((), value)
    if any(each is not None for each in positions):
        torch.ops.aten.index_put_(view, positions, value)
    else:
        torch.ops.aten.copy_(view, value)


def _basic_index(x: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Apply all of an index but its tensors, which are returned for each dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    used = sum(part is not None for part in parts) - 1
    place = next(number for number, part in enumerate(parts) if part is Ellipsis)
    parts[place : place + 1] = [slice(None)] * (x.ndim - used)
    positions: list[Tensor | None] = []
    for part in parts:
        dim = len(positions)
        if isinstance(part, int):
            x = x.select(dim, part)
            continue
        if part is None:
            x = x.unsqueeze(dim)
        elif isinstance(part, slice) and part != slice(None):
            x = torch.ops.aten.slice(x, dim, part.start, part.stop, part.step or 1)
        positions.append(part if isinstance(part, Tensor) else None)
    return x, positions
