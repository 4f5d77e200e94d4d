"""What a causal layer keeps of the tokens it has decoded, updated in place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spangym.utils.readable_repr import readable_repr

_GROWTH = 256
"""Entries by which the memory of a buffer grows, up to its capacity."""


class RollingBuffer:
    """The last ``capacity`` entries of a growing sequence, updated in place.

    A new entry replaces the oldest one once there are ``capacity`` of them. Until then the memory
    grows with the sequence.

    Args:
        capacity: Largest number of entries that are kept; all are kept if None.

    Attributes:
        num_appended: Number of entries so far, those that were replaced included.

    Example:
        >>> buffer = RollingBuffer(3)
        >>> buffer.append(torch.arange(5.0)[:, None])
        >>> buffer.entries()[:, 0].tolist(), buffer.positions().tolist()
        ([3.0, 4.0, 2.0], [3, 4, 2])
        >>> buffer.last(2)[:, 0].tolist()
        [3.0, 4.0]
    """

    __repr__ = readable_repr

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.num_appended = 0
        self._storage = torch.empty(0, 0)

    def append(self, x: Tensor) -> None:
        """Append entries, shape (..., entries, size)."""
        count = x.shape[-2]
        if self.capacity is not None and count > self.capacity:
            self.num_appended += count - self.capacity
            x = x[..., count - self.capacity :, :]
            count = self.capacity
        self._reserve(x)
        size = self._storage.shape[-2]
        start = self.num_appended % size
        before_end = min(count, size - start)
        self._storage[..., start : start + before_end, :] = x[..., :before_end, :]
        self._storage[..., : count - before_end, :] = x[..., before_end:, :]
        self.num_appended += count

    def _reserve(self, x: Tensor) -> None:
        """Enlarge the memory if ``x`` needs it."""
        needed, size = self.num_appended + x.shape[-2], self._storage.shape[-2]
        if self.capacity is not None:
            needed = min(needed, self.capacity)
        if needed <= size:
            return
        enlarged = -(-needed // _GROWTH) * _GROWTH
        if self.capacity is not None:
            enlarged = min(enlarged, self.capacity)
        storage = x.new_empty(*x.shape[:-2], enlarged, x.shape[-1])
        if size:
            storage[..., :size, :] = self._storage
        self._storage = storage

    def __len__(self) -> int:
        """Number of entries that are kept."""
        return min(self.num_appended, self._storage.shape[-2])

    def entries(self) -> Tensor:
        """All entries that are kept, shape (..., entries, size), in the order of `positions`.

        This is a view of the memory that `append` writes to.
        """
        return self._storage[..., : len(self), :]

    def positions(self) -> Tensor:
        """Number of each entry, counted from the first one ever appended, shape (entries,)."""
        slots = torch.arange(len(self), device=self._storage.device)
        if self.num_appended == len(self):
            return slots
        last = self.num_appended - 1
        return last - (last - slots).remainder(len(self))

    def last(self, count: int) -> Tensor:
        """A copy of the last ``count`` entries in the order of the sequence."""
        numbers = torch.arange(
            self.num_appended - count, self.num_appended, device=self._storage.device
        )
        return self._storage.index_select(-2, numbers.remainder(self._storage.shape[-2]))

    @property
    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        return self._storage.nbytes


@dataclass
class GlobalDecodingCache:
    """Keys and values of the global path: of every token, or of every complete block of tokens.

    Attributes:
        keys: Shape (batch, heads, tokens or blocks, head size).
        values: Likewise.
    """

    __repr__ = readable_repr

    keys: RollingBuffer = field(default_factory=RollingBuffer)
    values: RollingBuffer = field(default_factory=RollingBuffer)

    @property
    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        return self.keys.nbytes + self.values.nbytes


@dataclass
class PooledDecodingCache(GlobalDecodingCache):
    """Keys and values of complete blocks, and the tokens of the last block if it is incomplete.

    Attributes:
        keys: Shape (batch, heads, blocks, head size).
        values: Likewise.
        num_tokens: Number of tokens decoded so far.
        rest: Sum of the tokens after the last complete block, shape (batch, 1, dims).
    """

    num_tokens: int = 0
    rest: Tensor | None = None


@dataclass
class LocalDecodingCache:
    """Keys and values of the local path: of as many tokens as the longest span reaches back.

    Attributes:
        keys: Shape (batch, heads, tokens, head size).
        values: Likewise; the same buffer where keys are values.
        scale: Span scale of each sequence in its current window, shape (batch,).
        first_window: Position from which on windows have this scale, shape (batch,), int64.
        last_keys: Keys of the last token, which induction heads pair with the next one, shape
            (batch, 1, dims); None without induction heads.
    """

    __repr__ = readable_repr

    keys: RollingBuffer
    values: RollingBuffer
    scale: Tensor
    first_window: Tensor
    last_keys: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens decoded so far."""
        return self.keys.num_appended

    @property
    def nbytes(self) -> int:
        """Size of the memory of keys and values in bytes."""
        return sum(each.nbytes for each in {self.keys, self.values})

    def set_scale(self, scale: Tensor) -> None:
        """Start new windows at the next token in the sequences whose span scale changes."""
        changed = scale != self.scale
        self.first_window = torch.where(changed, self.num_tokens, self.first_window)
        self.scale = scale.clone()

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values, shape (batch, heads, tokens, head size)."""
        self.keys.append(keys)
        if self.values is not self.keys:
            self.values.append(values)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append keys and values; returns all that the new tokens may see, and their positions."""
        num_tokens = keys.shape[-2]
        if num_tokens == 1:
            # The key that it replaces is farther away than any span.
            self.append(keys, values)
            return self.keys.entries(), self.values.entries(), self.keys.positions()
        new = torch.arange(self.num_tokens, self.num_tokens + num_tokens, device=keys.device)
        positions = torch.cat([self.keys.positions(), new])
        is_shared = self.values is self.keys
        seen_keys = torch.cat([self.keys.entries(), keys], dim=-2)
        seen_values = seen_keys
        if not is_shared:
            seen_values = torch.cat([self.values.entries(), values], dim=-2)
        self.append(keys, values)
        return seen_keys, seen_values, positions


@dataclass
class WindowDecisions:
    """Decisions of a layer's controller, one for each window of each sequence.

    Attributes:
        actions: Action of the current window of each sequence, shape (batch,), int64.
        windows: Length of the current window of each sequence, in tokens.
        ends: Position at which the current window of each sequence ends.
        inputs: Normalized inputs of the local path, of as many tokens as the longest window has,
            shape (batch, tokens, dims): what the next decision observes.
    """

    __repr__ = readable_repr

    actions: Tensor
    windows: list[int]
    ends: list[int]
    inputs: RollingBuffer

    @classmethod
    def initial(cls, x: Tensor, longest_window: int) -> WindowDecisions:
        """Before the first decision for sequences of shape (batch, tokens, dims)."""
        batch = len(x)
        actions = torch.zeros(batch, dtype=torch.int64, device=x.device)
        return cls(actions, [0] * batch, [0] * batch, RollingBuffer(longest_window))


@dataclass
class DecodingCache:
    """What `LocalGlobalAttention.decode` keeps of the tokens so far.

    Decoding updates it in place. ``copy.deepcopy`` copies it, to continue a text in several ways.

    Attributes:
        local: Keys and values of the local path.
        global_path: Keys and values of the global path; None without one.
        predicted_scale: Span scale that the span predictor gave for the first token, shape
            (batch,).
        decisions: Decisions of the layer's controller; None where actions were given or there is
            none.
    """

    __repr__ = readable_repr

    local: LocalDecodingCache
    global_path: GlobalDecodingCache | None
    predicted_scale: Tensor
    decisions: WindowDecisions | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens decoded so far."""
        return self.local.num_tokens

    @property
    def nbytes(self) -> int:
        """Size of the buffers in bytes."""
        total = self.local.nbytes
        if self.global_path is not None:
            total += self.global_path.nbytes
        if self.decisions is not None:
            total += self.decisions.inputs.nbytes
        return total
