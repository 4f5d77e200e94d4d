"""What a layer may be handed: shapes and types are checked always, values where they lie at hand.

To look at values on an accelerator would make it wait; there lengths and actions are clamped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What one pass of a layer is handed.

    Attributes:
        x: Shape (batch, tokens, dims).
        xa: Where keys and values come from, shape (batch, keys, dims); ``x`` if None.
        mask: Boolean or floating, broadcastable to (batch, heads, tokens, keys).
        lengths: Tokens of each sequence that are no padding, shape (batch,), integers.
        xa_lengths: The same of ``xa``.
    """

    x: Tensor
    xa: Tensor | None = None
    mask: Tensor | None = None
    lengths: Tensor | None = None
    xa_lengths: Tensor | None = None

    @property
    def key_lengths(self) -> Tensor | None:
        """Keys of each sequence that are no padding."""
        return self.lengths if self.xa is None else self.xa_lengths

    def clamped(self) -> Inputs:
        """The same, no length beyond what there is, where they were not looked at."""
        lengths, xa_lengths = self.lengths, self.xa_lengths
        if lengths is not None:
            lengths = lengths.clamp(0, self.x.shape[1])
        if self.xa is not None and xa_lengths is not None:
            xa_lengths = xa_lengths.clamp(0, self.xa.shape[1])
        return replace(self, lengths=lengths, xa_lengths=xa_lengths)

    def check(self, ctx: int, dims: int, head: int) -> None:
        """Refuse what a layer cannot attend over.

        Args:
            ctx: Most tokens.
            dims: Width.
            head: Number of heads.

        Raises:
            ValueError: The message names the argument, its shape or type, and what would be right.
        """
        x, xa = self.x, self.xa
        shape = tuple(x.shape)
        if x.ndim != 3 or len(x) == 0 or shape[-1] != dims or not 1 <= shape[1] <= ctx:
            raise ValueError(
                f"x has shape {shape}; it must be (batch, tokens, {dims}) with 1 to {ctx} tokens"
            )
        batch, tokens, _ = shape
        if xa is not None and (
            xa.ndim != 3 or len(xa) != batch or xa.shape[1] == 0 or xa.shape[-1] != dims
        ):
            raise ValueError(
                f"xa has shape {tuple(xa.shape)}; it must be ({batch}, keys, {dims}) with at "
                "least one key"
            )
        for name, given in (("x", x), ("xa", xa)):
            if given is not None and not given.dtype.is_floating_point:
                raise ValueError(f"{name} has type {given.dtype}; it must be floating")
        keys = tokens if xa is None else xa.shape[1]
        check_mask(self.mask, (batch, head, tokens, keys))
        if xa is None and self.xa_lengths is not None:
            raise ValueError("xa_lengths is given without xa: the lengths of x are `lengths`")
        check_lengths("lengths", self.lengths, batch, tokens)
        check_lengths("xa_lengths", self.xa_lengths, batch, keys)


def check_mask(mask: Tensor | None, scores: tuple[int, ...]) -> None:
    """Refuse what is no mask for scores of a shape (batch, heads, queries, keys).

    Raises:
        ValueError: The message names shape or type, and what would be right.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask is a {type(mask).__name__}; it must be a tensor")
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise ValueError(
            f"mask has type {mask.dtype}; it must be boolean (True: may be seen) or floating "
            "(added to the scores)"
        )
    wrong = mask.ndim > 4 or any(
        size not in (1, whole)
        for size, whole in zip(reversed(mask.shape), reversed(scores), strict=False)
    )
    if wrong:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; it must be broadcastable to {scores} (batch, "
            "heads, queries, keys)"
        )


def check_values(name: str, values: Tensor, low: int, high: int) -> None:
    """Refuse numbers that lie outside, if they lie on the host.

    Raises:
        ValueError: The message names them and the bounds.
    """
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return
    # What is no number comes of an input that was none, and is not the caller's to mend here.
    if ((values < low) | (values > high)).any():
        raise ValueError(f"{name} must be in [{low}, {high}], got {values.tolist()}")


def check_lengths(name: str, lengths: Tensor | None, batch: int, tokens: int) -> None:
    """Refuse what are no numbers of tokens, one for each sequence.

    Raises:
        ValueError: The message names the argument, its shape or type, and what would be right.
    """
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise ValueError(f"{name} is a {type(lengths).__name__}; it must be a tensor of integers")
    whole = not lengths.dtype.is_floating_point and lengths.dtype != torch.bool
    if lengths.shape != (batch,) or not whole:
        raise ValueError(
            f"{name} has shape {tuple(lengths.shape)} and type {lengths.dtype}; it must be "
            f"integers of shape ({batch},)"
        )
    check_values(name, lengths, 0, tokens)
