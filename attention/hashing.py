"""State ids on the device: CPython's hash of a tuple of small integers, in tensor arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.attention.features import NUM_STATES, tuple_hash_id

# Of Objects/tupleobject.c, after xxHash; as signed integers, which wrap around alike.
_PRIME_1 = 11400714785074694791 - 2**64
_PRIME_2 = 14029467366897019727 - 2**64
_PRIME_5 = 2870177450012600261
_OF_LENGTH = _PRIME_5 ^ 3527539
_ROTATION = 31
_INSTEAD_OF_MINUS_ONE = 1546275796


@torch.library.custom_op("spangym::tuple_hash_states", mutates_args=())
def tuple_hash_states(bins: Tensor) -> Tensor:
    """State ids of many sequences: `spangym.attention.features.tuple_hash_id` of each row.

    Nothing is copied between devices. On the CPU Python hashes. Elsewhere the device does, one
    digit of all sequences after the other, some microseconds each: few digits are soon hashed.

    Args:
        bins: Integers of at least 0, int64 of shape (batch, numbers).

    Returns:
        int64 of shape (batch,), in 0..9998.

    Example:
        >>> tuple_hash_states(torch.full((2, 32), 5)).tolist()
        [2495, 2495]
    """
    if bins.device.type == "cpu":
        return torch.tensor([tuple_hash_id(row) for row in bins.tolist()], dtype=torch.int64)
    return cpython_tuple_hash(bins)


@tuple_hash_states.register_fake
def _(bins: Tensor) -> Tensor:
    return bins.new_empty(len(bins))


def cpython_tuple_hash(bins: Tensor) -> Tensor:
    """The same in tensor arithmetic, on any device.

    Args:
        bins: Integers of at least 0, int64 of shape (batch, numbers), at least one number.

    Returns:
        int64 of shape (batch,), in 0..9998.
    """
    total = torch.full_like(bins[:, 0], _PRIME_5)
    low_bits = (1 << _ROTATION) - 1
    for column in (bins * _PRIME_2).unbind(1):
        total = total + column
        # A shift to the right repeats the sign, which a rotation does not.
        rotated = (total << _ROTATION) | ((total >> (64 - _ROTATION)) & low_bits)
        total = rotated * _PRIME_1
    total = total + (bins.shape[1] ^ _OF_LENGTH)
    total = torch.where(total == -1, _INSTEAD_OF_MINUS_ONE, total)
    return total.remainder(NUM_STATES)
