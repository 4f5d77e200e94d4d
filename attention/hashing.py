"""State ids on the device: CPython's hash of a tuple of small integers in tensor arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.attention.features import NUM_STATES, tuple_hash_id

# Constants of CPython's Objects/tupleobject.c (xxHash), as signed integers that overflow equally.
_PRIME_1 = 11400714785074694791 - 2**64
_PRIME_2 = 14029467366897019727 - 2**64
_PRIME_5 = 2870177450012600261
_LENGTH_SALT = _PRIME_5 ^ 3527539
_ROTATION = 31
_HASH_OF_MINUS_ONE = 1546275796

_MANY_ROWS = 1024
"""Rows from which tensor arithmetic on the CPU is faster than Python's hash."""


@torch.library.custom_op("spangym::tuple_hash_states", mutates_args=())
def tuple_hash_states(digits: Tensor, num_states: int = NUM_STATES) -> Tensor:
    """`spangym.attention.features.tuple_hash_id` of each row, without a copy between devices.

    The CPU calls Python's hash for a few rows. Many rows, and other devices, compute it digit by
    digit, a few microseconds each.

    Args:
        digits: Nonnegative integers, int64 of shape (batch, numbers).
        num_states: Number of states, at least 2.

    Returns:
        int64 of shape (batch,), in ``0..num_states - 2``.

    Example:
        >>> tuple_hash_states(torch.full((2, 32), 5)).tolist()
        [2495, 2495]
    """
    if digits.device.type == "cpu" and len(digits) < _MANY_ROWS:
        ids = [tuple_hash_id(row, num_states) for row in digits.tolist()]
        return torch.tensor(ids, dtype=torch.int64)
    return cpython_tuple_hash(digits, num_states)


@tuple_hash_states.register_fake
def _(digits: Tensor, num_states: int = NUM_STATES) -> Tensor:
    del num_states
    return digits.new_empty(digits.shape[0])


def cpython_tuple_hash(digits: Tensor, num_states: int = NUM_STATES) -> Tensor:
    """`tuple_hash_states` in tensor arithmetic, on any device; at least one number a row."""
    total = torch.full_like(digits[:, 0], _PRIME_5)
    low_bits = (1 << _ROTATION) - 1
    for column in (digits * _PRIME_2).unbind(1):
        total = total + column
        # A right shift repeats the sign, which a rotation must not.
        rotated = (total << _ROTATION) | ((total >> (64 - _ROTATION)) & low_bits)
        total = rotated * _PRIME_1
    total = total + (digits.shape[1] ^ _LENGTH_SALT)
    total = torch.where(total == -1, _HASH_OF_MINUS_ONE, total)
    return total.remainder(num_states - 1)
