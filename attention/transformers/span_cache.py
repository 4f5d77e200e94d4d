"""Key-value caches of Transformers models that drop the keys outside a span, or skip them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
)

from spangym.attention.transformers.stream_state import StreamState
from spangym.utils.readable_repr import readable_repr

_GROWTH = 128
"""Tokens by which the memory of a layer grows while none is dropped."""

_CACHE_NAMES = ("cache", "past_key_values", "past_key_value", "layer_past")
"""Names that attention modules give to the argument with the cache."""


class SpanCacheLayer(DynamicLayer):
    """A layer of a Transformers cache that can drop keys in the middle of the text.

    It holds the first ``sinks`` unpadded keys of each sequence, and the last ones in a ring. The
    sequences of a batch share the ring; a slot is empty for those that dropped its key. As long as
    no key is dropped, the ring is a list that grows in place. The reported lengths are those of
    the text, so that positions and masks of the model continue as with a full cache.

    Args:
        sliding_window: Native window of the model's layer; None without one.

    Attributes:
        keys: Shape (batch, key-value heads, slots, head size); `positions` are those of the slots.
        values: Likewise.
        num_tokens: Number of tokens so far, including those dropped.
        is_new: Whether `first_key` was not set since the first token.
        stream: Decisions of the group whose first module this layer belongs to; None elsewhere.
        is_sliding: Whether the model's layer has a native window.
        is_croppable: Whether no key was dropped.
        is_admitted: Whether the next update comes from a module under control.
    """

    __repr__ = readable_repr

    def __init__(self, sliding_window: int | None = None) -> None:
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self._forget()

    def _forget(self) -> None:
        self.num_tokens = 0
        self.is_new = True
        self._first_key: Tensor | None = None
        self.stream: StreamState | None = None
        self.is_admitted = False
        self.is_croppable = True
        # Keys and values: slots of sinks, then the ring.
        self._storage: tuple[Tensor, Tensor] | None = None
        self._ring_slots = 0
        self._sink_slots = 0
        # Position of the first slot of the ring when the ring was made.
        self._ring_start = 0
        # The first position that is held besides sinks, by sequence if it is a tensor. It is 0
        # while a sequence has dropped nothing, and after its sinks otherwise.
        self._oldest: int | Tensor = 0
        self._oldest_of_all = 0
        # Sinks of a sequence, fixed when the first key is dropped.
        self._num_sinks = 0
        self._is_cut = False

    @classmethod
    def replacing(cls, layer: DynamicLayer) -> SpanCacheLayer:
        """A layer with the keys of another one, which continues it."""
        own = cls(getattr(layer, "sliding_window", None))
        if layer.get_seq_length() > 0:
            assert layer.keys is not None
            assert layer.values is not None
            own.device, own.is_initialized = layer.keys.device, True
            own.num_tokens = layer.get_seq_length()
            own._storage = (layer.keys, layer.values)
            own._ring_slots = layer.keys.shape[-2]
            own._ring_start = own.num_tokens - own._ring_slots
            own._oldest = own._oldest_of_all = own._ring_start
            own.is_croppable = own._ring_start == 0
            own._show()
        return own

    @property
    def nbytes(self) -> int:
        """Size of the memory of keys and values in bytes."""
        return 0 if self._storage is None else sum(each.nbytes for each in self._storage)

    @property
    def is_uniform(self) -> bool:
        """Whether all sequences hold the same positions and none is padded."""
        return self._first_key is None and isinstance(self._oldest, int)

    @property
    def is_complete(self) -> bool:
        """Whether no sequence has dropped a key."""
        return isinstance(self._oldest, int) and self._oldest == 0

    def set_first_key(self, first_key: Tensor | None) -> None:
        """Set the position of the first unpadded key of each sequence.

        Args:
            first_key: Shape (batch,), int64; None if it is 0 in all sequences.
        """
        self._first_key, self.is_new = first_key, False

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002  (the interface of Transformers)
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values, shape (batch, heads, tokens, head size).

        Returns:
            All keys and values so far. After keys were dropped these are placeholders of the same
            shape, filled with NaN, that take no memory: the attention function reads `select`.

        Raises:
            ValueError: If keys were dropped and the module is not under control.
        """
        is_admitted, self.is_admitted = self.is_admitted, False
        if self._is_cut and not is_admitted:
            raise ValueError(
                "this cache dropped keys under spangym.control(..., cache='trim'): continue it in "
                "a with block of spangym.control, or start with a new cache"
            )
        count = key_states.shape[-2]
        if self.num_tokens == 0:
            self.device, self.is_initialized = key_states.device, True
            self._storage, self._ring_slots = (key_states, value_states), count
        else:
            self._append(key_states, value_states)
        seen, _ = self.get_mask_sizes(count)
        self.num_tokens += count
        self._show()
        assert self.keys is not None
        assert self.values is not None
        if self._oldest_of_all > 0 and not is_admitted:
            # The module reads the keys itself: in the order of the text.
            self._arrange(self._oldest_of_all, 0)
            self._show()
        if self._oldest_of_all == 0 or not is_admitted:
            return self.keys[..., -seen:, :], self.values[..., -seen:, :]
        return _placeholder(key_states, seen), _placeholder(value_states, seen)

    def _append(self, keys: Tensor, values: Tensor) -> None:
        assert self._storage is not None
        count = keys.shape[-2]
        held = self.num_tokens - self._oldest_of_all
        # What a backward pass or inference mode has saved is not overwritten.
        is_saved = any(each.requires_grad for each in (keys, values, *self._storage)) or (
            self._storage[0].is_inference() and not torch.is_inference_mode_enabled()
        )
        if is_saved:
            self._arrange(self._oldest_of_all, 0)
            old_keys, old_values = self._storage
            self._storage = torch.cat([old_keys, keys], -2), torch.cat([old_values, values], -2)
            self._ring_slots += count
            return
        if held + count > self._ring_slots:
            self._arrange(self._oldest_of_all, count + _GROWTH)
        # Either the ring has just been arranged, or one token replaces the oldest one.
        start = (self.num_tokens - self._ring_start) % self._ring_slots + self._sink_slots
        for storage, new in zip(self._storage, (keys, values), strict=True):
            storage[..., start : start + count, :] = new

    def _arrange(self, oldest: int, free_slots: int, num_sinks: int | None = None) -> None:
        """Copy the keys from ``oldest`` on into a new ring, in order, with free slots at its end.

        Args:
            oldest: First position of the ring.
            free_slots: Number of free slots.
            num_sinks: Keys from the first unpadded one on that are copied before the ring; None to
                keep the slots of sinks as they are.
        """
        assert self._storage is not None
        wanted = torch.arange(oldest, self.num_tokens, device=self._storage[0].device)
        slots = self._slots(wanted)
        own = []
        for storage in self._storage:
            sinks = storage[..., : self._sink_slots, :]
            if num_sinks is not None:
                sinks = self._sinks(storage, num_sinks)
            free = storage.new_empty(*storage.shape[:-2], free_slots, storage.shape[-1])
            own.append(torch.cat([sinks, storage.index_select(-2, slots), free], -2))
        self._storage = own[0], own[1]
        self._sink_slots = self._sink_slots if num_sinks is None else num_sinks
        self._ring_slots, self._ring_start = len(slots) + free_slots, oldest

    def _slots(self, positions: Tensor) -> Tensor:
        """Slots of positions that the ring holds."""
        return (positions - self._ring_start).remainder(self._ring_slots) + self._sink_slots

    def _sinks(self, storage: Tensor, count: int) -> Tensor:
        """The first ``count`` unpadded keys or values of each sequence, while all are in the ring.

        Args:
            storage: Shape (batch, heads, slots, head size).
            count: Number of sinks.
        """
        if self._first_key is None:
            return storage[..., :count, :]
        slots = self._first_key[:, None] + torch.arange(count, device=storage.device)
        slots = slots.clamp(max=self.num_tokens - 1)[:, None, :, None]
        return storage.gather(-2, slots.expand(-1, storage.shape[1], -1, storage.shape[-1]))

    def _show(self) -> None:
        """Set `keys` and `values` to the slots in use."""
        if self._storage is None:
            return
        used = self._sink_slots + min(self._ring_slots, self.num_tokens - self._ring_start)
        self.keys, self.values = (each[..., :used, :] for each in self._storage)

    def positions(self) -> Tensor:
        """Position of the key in each slot of `keys`, int64; -1 in slots that are empty.

        The shape is (batch, slots), or (1, slots) if it is the same in all sequences.
        """
        assert self.keys is not None
        slots = torch.arange(self.keys.shape[-2] - self._sink_slots, device=self.keys.device)
        last = self.num_tokens - 1
        ring = last - (last - self._ring_start - slots).remainder(self._ring_slots)
        if self.is_uniform:
            ring = torch.where(ring >= self._oldest, ring, -1)
            return torch.cat([slots.new_tensor(range(self._sink_slots)), ring])[None]
        first = ring.new_zeros(1) if self._first_key is None else self._first_key
        first = first[:, None].to(ring.device)
        oldest = self._oldest if isinstance(self._oldest, int) else self._oldest[:, None]
        is_held = ring >= oldest
        if self._sink_slots == 0:
            is_held = is_held | (ring < first + self._num_sinks)
        ring = torch.where(is_held & (ring >= first), ring, -1)
        sinks = first + torch.arange(self._sink_slots, device=ring.device)
        return torch.cat([sinks.expand(len(ring), -1), ring], dim=1)

    def select(
        self, num_queries: int, span: int | Tensor, sinks: int, needs_positions: bool
    ) -> HeldKeys:
        """Keys and values that the last queries may see.

        Args:
            num_queries: Number of queries; the last one is at the last key.
            span: Span of all sequences, or of each, shape (batch,).
            sinks: Number of the first unpadded keys that every query sees.
            needs_positions: Whether positions are returned although all queries see all keys.
        """
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        longest = span if isinstance(span, int) else int(span.max())
        start = max(0, self.num_tokens - num_queries - longest + 1)
        is_simple = num_queries == 1 and isinstance(span, int) and self.is_uniform
        if self._oldest_of_all > 0:
            is_simple &= start <= self._oldest_of_all and self._sink_slots in (0, sinks)
            hides = needs_positions or not is_simple
            return HeldKeys(keys, values, self.positions() if hides else None)
        hides = needs_positions or not is_simple
        positions = self.positions() if hides else None
        last_sink = sinks if self._first_key is None else int(self._first_key.max()) + sinks
        if start <= last_sink:
            return HeldKeys(keys, values, positions)
        keys, values = (
            torch.cat([self._sinks(each, sinks), each[..., start:, :]], dim=-2)
            for each in (keys, values)
        )
        if positions is not None:
            first = positions.new_zeros(1) if self._first_key is None else self._first_key
            own = first[:, None] + torch.arange(sinks, device=positions.device)
            batch = max(len(own), len(positions))
            parts = own.expand(batch, -1), positions[:, start:].expand(batch, -1)
            positions = torch.cat(parts, dim=1)
        return HeldKeys(keys, values, positions)

    def visible(
        self, positions: Tensor, num_queries: int, span: int | Tensor, sinks: int
    ) -> Tensor:
        """Which keys the last queries see, boolean (batch or 1, queries, keys).

        Args:
            positions: Positions of the keys, (batch or 1, keys), -1 where there is none.
            num_queries: Number of queries; the last one is at the last key.
            span: Span of all sequences, or of each, shape (batch,).
            sinks: Number of the first unpadded keys that every query sees.
        """
        key = positions[:, None]
        first = self.num_tokens - num_queries
        query = torch.arange(first, self.num_tokens, device=key.device)[:, None]
        reach = span if isinstance(span, int) else span.to(key.device)[:, None, None]
        last_sink = sinks if self._first_key is None else self._first_key[:, None, None] + sinks
        is_near = query - key < reach
        return (is_near | (key < last_sink)) & (key >= 0) & (key <= query)

    def trim(self, span: int | Tensor, sinks: int) -> None:
        """Drop the keys that the next query does not see, and none after it.

        Args:
            span: Span of all sequences, or of each, shape (batch,).
            sinks: Number of the first unpadded keys that stay.
        """
        native = 0 if self.sliding_window is None else self.num_tokens - self.sliding_window + 1
        if self._is_cut:
            sinks = self._num_sinks
        if isinstance(span, int) and isinstance(self._oldest, int) and self._first_key is None:
            oldest = max(self.num_tokens - span + 1, native)
            if oldest <= max(sinks, self._oldest):
                return
            is_cut, oldest_of_all = oldest > native, oldest
        else:
            oldest, is_cut = self._oldest_by_sequence(span, sinks, native)
            oldest_of_all = int(oldest.min())
            if self._first_key is None and oldest_of_all == int(oldest.max()):
                oldest = oldest_of_all
        self._oldest = oldest
        self._is_cut |= is_cut
        self.is_croppable = not (self._is_cut or oldest_of_all > 0)
        self._num_sinks = sinks if self._is_cut else 0
        if oldest_of_all <= self._oldest_of_all:
            return
        # While the native window alone drops keys, it hides the sinks, too.
        own = sinks if self._oldest_of_all == 0 and self._is_cut else None
        self._oldest_of_all = oldest_of_all
        # The next token takes the slot of the oldest one, if one was dropped and none is free.
        if own is not None or self._ring_slots != self.num_tokens - oldest_of_all + 1:
            self._arrange(oldest_of_all, 1, own)
        self._show()

    def _oldest_by_sequence(
        self, span: int | Tensor, sinks: int, native: int
    ) -> tuple[Tensor, bool]:
        """The first position of each sequence that stays, and whether the span is the reason."""
        assert self.keys is not None
        device = self.keys.device
        first = 0 if self._first_key is None else self._first_key.to(device)
        before = torch.as_tensor(self._oldest, device=device).expand(len(self.keys))
        reach = span if isinstance(span, int) else span.to(device)
        by_span = torch.as_tensor(self.num_tokens + 1 - reach, device=device)
        oldest = torch.maximum(by_span.clamp(min=native), before)
        oldest = torch.where(oldest > first + sinks, oldest, before)
        return oldest, bool((oldest > max(native, 0)).any())

    def get_seq_length(self) -> int:
        """Number of tokens so far, including those dropped."""
        return self.num_tokens

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Number of keys in the model's mask and position of the first one, before an update.

        They are those of the layer that this one replaces. Old versions of Transformers pass the
        positions of the queries.
        """
        if isinstance(query_length, Tensor):
            query_length = len(query_length)
        if self.sliding_window is None:
            return self.num_tokens + query_length, 0
        seen = min(self.num_tokens, self.sliding_window - 1)
        return seen + query_length, self.num_tokens - seen

    def get_max_length(self) -> int:
        """The native window; -1 without one."""
        return -1 if self.sliding_window is None else self.sliding_window

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args:
            tokens_to_remove: Their number, negative or 0; old versions of Transformers pass the
                number of tokens that stay.

        Raises:
            ValueError: If keys were dropped, since earlier queries saw some of them.
        """
        left = self.num_tokens + tokens_to_remove if tokens_to_remove <= 0 else tokens_to_remove
        if left >= self.num_tokens or not self.is_initialized:
            return
        if not self.is_croppable:
            raise ValueError("a cache that dropped keys cannot be cropped: use cache='read'")
        self.num_tokens = max(0, left)
        self._show()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the sequences, as beam search does."""
        self._select_sequences(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        if self.keys is not None:
            self._select_sequences(torch.arange(len(self.keys)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences of these indices, or of a boolean mask."""
        if self.keys is not None:
            indices = indices.cpu()
            self._select_sequences(torch.arange(len(self.keys))[indices])

    def _select_sequences(self, index: Tensor) -> None:
        if self._storage is None:
            return
        own = [each.index_select(0, index.to(each.device)) for each in self._storage]
        self._storage = own[0], own[1]
        if isinstance(self._oldest, Tensor):
            self._oldest = self._oldest.index_select(0, index.to(self._oldest.device))
        if self._first_key is not None:
            self._first_key = self._first_key.index_select(0, index.to(self._first_key.device))
        if self.stream is not None:
            self.stream = self.stream.select(index)
        self._show()

    def offload(self) -> None:
        """Move keys and values to the CPU."""
        self._move(torch.device("cpu"))

    def prefetch(self) -> None:
        """Move keys and values back to their device."""
        if self.is_initialized:
            self._move(self.device)

    def _move(self, device: torch.device) -> None:
        if self._storage is None:
            return
        own = [each.to(device, non_blocking=True) for each in self._storage]
        self._storage = own[0], own[1]
        if isinstance(self._oldest, Tensor):
            self._oldest = self._oldest.to(device)
        if self._first_key is not None:
            self._first_key = self._first_key.to(device)
        self._show()


@dataclass(frozen=True)
class HeldKeys:
    """Keys and values that some queries read.

    Attributes:
        keys: Shape (batch, key-value heads, keys, head size).
        values: Likewise.
        positions: Position of each key, shape (batch or 1, keys), int64, -1 where there is none;
            None if every query sees every key.
    """

    __repr__ = readable_repr

    keys: Tensor
    values: Tensor
    positions: Tensor | None


def _placeholder(states: Tensor, count: int) -> Tensor:
    """A tensor with ``count`` keys that has the memory of a single number."""
    nan = states.new_full((1, 1, 1, 1), float("nan"))
    return nan.expand(*states.shape[:-2], count, states.shape[-1])


def find_cache(arguments: Mapping[str, Any]) -> Cache | None:
    """The cache of self-attention among the keyword arguments of an attention module."""
    for name in _CACHE_NAMES:
        cache = arguments.get(name)
        if isinstance(cache, EncoderDecoderCache):
            return cache.self_attention_cache
        if isinstance(cache, Cache):
            return cache
    return None


def adopt_layer(cache: Cache, layer_index: int | None) -> SpanCacheLayer:
    """The layer of a cache as one that can drop keys; it replaces the cache's own.

    Raises:
        ValueError: If the cache has another kind of layer.
    """
    if layer_index is None:
        raise ValueError("an attention module without layer_idx cannot be controlled with a cache")
    if cache.layer_class_to_replicate is not None:
        while len(cache.layers) <= layer_index:
            cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[layer_index]
    if isinstance(layer, SpanCacheLayer):
        return layer
    # Their subclasses hold more than keys and values.
    is_known = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
    if not isinstance(layer, DynamicLayer) or not is_known:
        raise ValueError(
            f"spans while decoding need a DynamicCache, but layer {layer_index} of the cache is a "
            f"{type(layer).__name__}: give no cache_implementation, or use_cache=False"
        )
    own = SpanCacheLayer.replacing(layer)
    cache.layers[layer_index] = own
    return own
