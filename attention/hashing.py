"""State ids on the device: CPython's hash of a tuple of small integers, in tensor arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.attention.features import STATES, state_id

# Of Objects/tupleobject.c, after xxHash; as signed integers, which wrap around alike.
_PRIME_1 = 11400714785074694791 - 2**64
_PRIME_2 = 14029467366897019727 - 2**64
_PRIME_5 = 2870177450012600261
_OF_LENGTH = _PRIME_5 ^ 3527539
_ROTATION = 31
_INSTEAD_OF_MINUS_ONE = 1546275796


@torch.library.custom_op("spangym::hashed_states", mutates_args=())
def hashed_states(digits: Tensor) -> Tensor:
    """State ids of many lanes: `spangym.attention.features.state_id` of each row.

    Nothing is copied between devices. On the CPU Python hashes. Elsewhere the device does, one
    digit of all lanes after the other, some microseconds each: few digits are soon hashed.

    Args:
        digits: Integers of at least 0, int64 of shape (lanes, numbers).

    Returns:
        int64 of shape (lanes,), in 0..9998.

    Example:
        >>> hashed_states(torch.full((2, 32), 5)).tolist()
        [2495, 2495]
    """
    if digits.device.type == "cpu":
        return torch.tensor([state_id(row) for row in digits.tolist()], dtype=torch.int64)
    return hash_rows(digits)


@hashed_states.register_fake
def _(digits: Tensor) -> Tensor:
    return digits.new_empty(len(digits))


def hash_rows(digits: Tensor) -> Tensor:
    """The same in tensor arithmetic, on any device.

    Args:
        digits: Integers of at least 0, int64 of shape (lanes, numbers), at least one number.

    Returns:
        int64 of shape (lanes,), in 0..9998.
    """
    total = torch.full_like(digits[:, 0], _PRIME_5)
    low_bits = (1 << _ROTATION) - 1
    for column in (digits * _PRIME_2).unbind(1):
        total = total + column
        # A shift to the right repeats the sign, which a rotation does not.
        rotated = (total << _ROTATION) | ((total >> (64 - _ROTATION)) & low_bits)
        total = rotated * _PRIME_1
    total = total + (digits.shape[1] ^ _OF_LENGTH)
    total = torch.where(total == -1, _INSTEAD_OF_MINUS_ONE, total)
    return total.remainder(STATES)
