"""Checks of sizes, shapes, types and values; every `ValueError` names the argument and the rule.

Values of tensors are checked on the CPU only, since reading them from an accelerator would
synchronize it; there, lengths and actions are clamped instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spangym.attention.features import zero_padding
from spangym.utils.readable_repr import short_repr
from spangym.utils.scalars import as_int


def check(rules: Iterable[tuple[bool, str]]) -> None:
    """Raise a ``ValueError`` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def check_sizes(ctx: Any, dims: Any, head: Any) -> tuple[int, int, int]:
    """Check the sizes of a layer, integers of any library, and return them as Python integers."""
    ctx, dims, head = as_int("ctx", ctx, 1), as_int("dims", dims, 4), as_int("head", head, 1)
    check([(dims % head == 0, f"head must divide dims, got head={head}, dims={dims}")])
    return ctx, dims, head


FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of the layers' inputs."""


def check_floats(**tensors: object) -> None:
    """Raise a ``ValueError`` for the first argument that is no tensor of a dtype layers take."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}; it must be a floating tensor")
        if tensor.dtype not in FLOAT_DTYPES:
            *most, last = (str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)
            wanted = f"{', '.join(most)} or {last}"
            raise ValueError(f"{name} has type {tensor.dtype}; it must be {wanted}")


@dataclass(frozen=True)
class Inputs:
    """Inputs of one pass through a layer.

    Attributes:
        x: Input, shape (batch, tokens, dims).
        xa: Cross-attention input, shape (batch, keys, dims); None for self-attention.
        mask: Boolean or additive mask, broadcastable to (batch, heads, tokens, keys).
        lengths: Unpadded length of each sequence of ``x``, shape (batch,), integers.
        xa_lengths: Unpadded length of each sequence of ``xa``, shape (batch,), integers.
    """

    x: Tensor
    xa: Tensor | None = None
    mask: Tensor | None = None
    lengths: Tensor | None = None
    xa_lengths: Tensor | None = None

    @property
    def key_lengths(self) -> Tensor | None:
        """Unpadded number of keys of each sequence, shape (batch,)."""
        return self.lengths if self.xa is None else self.xa_lengths

    def validated(self, ctx: int, dims: int, head: int) -> Inputs:
        """Check the inputs for a layer of these sizes.

        Returns:
            The inputs, with ``xa`` in the dtype of ``x``, lengths in bounds, and 0 in the padding.
        """
        x, xa = self.x, self.xa
        check_floats(x=x)
        if xa is not None:
            check_floats(xa=xa)
        shape = tuple(x.shape)
        if x.ndim != 3 or shape[0] == 0 or shape[-1] != dims or not 1 <= shape[1] <= ctx:
            raise ValueError(
                f"x has shape {shape}; it must be (batch, tokens, {dims}) with 1 to {ctx} tokens"
            )
        batch, tokens, _ = shape
        if xa is not None and (
            xa.ndim != 3 or xa.shape[0] != batch or xa.shape[1] == 0 or xa.shape[-1] != dims
        ):
            raise ValueError(
                f"xa has shape {tuple(xa.shape)}; it must be ({batch}, keys, {dims}) with at "
                "least one key"
            )
        keys = tokens if xa is None else xa.shape[1]
        check_mask(self.mask, (batch, head, tokens, keys))
        if xa is None and self.xa_lengths is not None:
            raise ValueError("xa_lengths is given without xa: the lengths of x are `lengths`")
        check_lengths("lengths", self.lengths, batch, tokens)
        check_lengths("xa_lengths", self.xa_lengths, batch, keys)
        lengths, xa_lengths = (
            None if given is None else given.clamp(0, bound)
            for given, bound in ((self.lengths, tokens), (self.xa_lengths, keys))
        )
        x = zero_padding(x, lengths)
        if xa is not None:
            xa = zero_padding(xa, xa_lengths).to(x.dtype)
        return Inputs(x, xa, self.mask, lengths, xa_lengths)


def check_mask(mask: Tensor | None, scores: tuple[int, ...]) -> None:
    """Check a mask for scores of shape (batch, heads, queries, keys)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask is a {type(mask).__name__}; it must be a tensor")
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise ValueError(
            f"mask has type {mask.dtype}; it must be boolean (True: attend) or floating "
            "(added to the scores)"
        )
    sizes = zip(reversed(mask.shape), reversed(scores), strict=False)
    if mask.ndim > 4 or any(size not in (1, full) for size, full in sizes):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must be broadcastable to {scores} (batch, "
            "heads, queries, keys)"
        )


def check_values(name: str, values: Tensor, low: int, high: int) -> None:
    """Check that all values are in [low, high], if they are on the CPU."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return
    # NaN passes: it comes from a NaN in the input, which shows in the output.
    if ((values < low) | (values > high)).any():
        raise ValueError(f"{name} must be in [{low}, {high}], got {values.tolist()}")


def check_lengths(name: str, lengths: Tensor | None, batch: int, tokens: int) -> None:
    """Check unpadded lengths: one integer in 0..tokens for each sequence."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise ValueError(f"{name} is a {type(lengths).__name__}; it must be a tensor of integers")
    if lengths.shape != (batch,) or not _is_integer(lengths):
        raise ValueError(
            f"{name} has shape {tuple(lengths.shape)} and type {lengths.dtype}; it must be "
            f"integers of shape ({batch},)"
        )
    check_values(name, lengths, 0, tokens)


def check_actions(action: Tensor | int, num_actions: int, like: Tensor) -> Tensor:
    """Check actions, one or one for each sequence of ``like``; returns them on its device."""
    if isinstance(action, float) or (isinstance(action, int) and not 0 <= action < num_actions):
        raise ValueError(
            f"action must be an integer in 0..{num_actions - 1}, got {short_repr(action)}"
        )
    if isinstance(action, int):
        # Without a copy to the device, which would wait for it.
        actions = torch.full((), action, device=like.device)
    else:
        actions = torch.as_tensor(action, device=like.device)
    if actions.shape not in ((), (1,), tuple(like.shape[:1])) or not _is_integer(actions):
        raise ValueError(
            f"action has shape {tuple(actions.shape)} and type {actions.dtype}; it must be one "
            f"integer or one for each of the {like.shape[0]} sequences"
        )
    check_values("action", actions, 0, num_actions - 1)
    return actions


def check_recompute_kv(recompute_kv: Tensor, batch: int) -> None:
    """Check a choice of keys and values to recompute, boolean of shape (batch, 2)."""
    if recompute_kv.shape != (batch, 2) or recompute_kv.dtype != torch.bool:
        raise ValueError(
            f"recompute_kv has shape {tuple(recompute_kv.shape)} and type {recompute_kv.dtype}; it "
            f"must be boolean of shape ({batch}, 2): keys and values of each sequence"
        )


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.dtype.is_floating_point and tensor.dtype != torch.bool
