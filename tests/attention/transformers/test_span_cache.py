"""Cache layers that drop keys: what is held, memory, and operations on the batch."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from spangym.attention.transformers.span_cache import (
    SpanCacheLayer,
    adopt_layer,
    find_cache,
)
from spangym.attention.transformers.span_choosers import FULL_SPAN
from spangym.attention.transformers.stream_state import StreamState

HEADS, SIZE = 2, 3


def append(layer: SpanCacheLayer, keys: Tensor) -> Tensor:
    """Append keys under control; the values are the keys plus 1."""
    layer.is_admitted = True
    return layer.update(keys, keys + 1)[0]


def filled(tokens: int, span: int = FULL_SPAN, sinks: int = 2, batch: int = 1) -> SpanCacheLayer:
    """A layer after a prompt of half the tokens, then one after the other, trimmed."""
    layer = SpanCacheLayer()
    keys = numbered(tokens, batch)
    prompt = tokens // 2
    for block in (keys[:, :, :prompt], *keys[:, :, prompt:].split(1, dim=2)):
        append(layer, block)
        layer.trim(span, sinks)
    return layer


def numbered(tokens: int, batch: int = 1) -> Tensor:
    """Keys that hold their positions, plus 1000 for each sequence before."""
    keys = torch.arange(tokens, dtype=torch.float32)[:, None].expand(batch, HEADS, tokens, SIZE)
    return (keys + 1000 * torch.arange(batch)[:, None, None, None]).contiguous()


@dataclass
class Reference:
    """All keys so far, and which of them each sequence still holds."""

    sinks: int
    window: int | None
    first_key: Tensor
    keys: Tensor
    is_held: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.is_held = torch.zeros(self.keys.shape[0], 0, dtype=torch.bool)

    def append(self, keys: Tensor) -> None:
        self.keys = torch.cat([self.keys, keys], dim=2)
        self.is_held = torch.nn.functional.pad(self.is_held, (0, keys.shape[2]), value=True)

    def visible(self, query: int, spans: Tensor) -> Tensor:
        """Keys that a query sees, (batch, keys)."""
        position = torch.arange(self.keys.shape[2])
        is_sink = position < self.first_key[:, None] + self.sinks
        is_near = query - position < spans[:, None]
        seen = self.is_held & (is_near | is_sink) & (position >= self.first_key[:, None])
        if self.window is not None:
            seen &= query - position < self.window
        return seen & (position <= query)

    def trim(self, spans: Tensor) -> None:
        position = torch.arange(self.keys.shape[2])
        is_near = self.keys.shape[2] - position < spans[:, None]
        self.is_held &= is_near | (position < self.first_key[:, None] + self.sinks)

    def select(self, index: Tensor) -> None:
        self.keys, self.is_held = self.keys[index], self.is_held[index]
        self.first_key = self.first_key[index]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_queries_read_the_keys_in_their_span_and_the_sinks(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 3), "batch")
    window = data.draw(st.sampled_from([None, None, 12]), "native window")
    trims, is_common = data.draw(st.booleans(), "trims"), data.draw(st.booleans(), "common spans")
    first_key = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=batch, max_size=batch)))
    sinks = data.draw(st.sampled_from([0, 1, 4]), "sinks")
    span = st.sampled_from([1, 3, 8, 20, FULL_SPAN])
    empty = torch.empty(batch, HEADS, 0, SIZE)
    layer, reference = SpanCacheLayer(window), Reference(sinks, window, first_key, empty)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9), "seed"))
    counts = [9, *data.draw(st.lists(st.sampled_from([1, 1, 1, 3]), min_size=20, max_size=30))]
    spans: int | Tensor = FULL_SPAN
    for step, count in enumerate(counts):
        keys = torch.randn(batch, HEADS, count, SIZE, generator=generator)
        if step % 6 == 0:
            chosen = [data.draw(span) for _ in range(batch)]
            spans = chosen[0] if is_common else torch.tensor(chosen)
        given_keys = append(layer, keys)
        reference.append(keys)
        total = reference.keys.shape[2]
        assert given_keys.shape[2] == (min(total - count, (window or 99) - 1) + count)
        if layer.is_new:
            layer.set_first_key(first_key if first_key.any() else None)
        held = layer.select(count, spans, sinks, needs_positions=step % 2 == 0)
        each = torch.as_tensor(spans).expand(batch)
        positions = held.positions
        if positions is None:
            # All of them are visible to the only query, so their sum shows which they are.
            seen = reference.visible(total - 1, each)[:, None, :, None]
            torch.testing.assert_close(held.keys.sum(2), (reference.keys * seen).sum(2))
        else:
            visible = layer.visible(positions, count, spans, sinks)
            own = reference.keys.gather(
                2, positions.clamp(min=0)[:, None, :, None].expand(batch, HEADS, -1, SIZE)
            )
            is_key = (positions >= 0)[:, None, :, None]
            torch.testing.assert_close(held.keys * is_key, own * is_key, rtol=0, atol=0)
            torch.testing.assert_close(held.values * is_key, (own + 1) * is_key, rtol=0, atol=0)
            for index in range(count):
                query = total - count + index
                shown = visible[:, index].expand(batch, -1)
                if window is not None:
                    shown = shown & (query - positions < window)
                seen = torch.zeros(batch, total + 1, dtype=torch.int64)
                seen.scatter_add_(1, positions.expand(batch, -1).where(shown, total), shown.long())
                expected = reference.visible(query, each)
                assert torch.equal(seen[:, :total], expected.long())
        layer.trim(spans if trims else FULL_SPAN, sinks)
        if trims:
            reference.trim(each)
        if step % 10 == 9:
            index = torch.arange(batch).flip(0)
            layer.reorder_cache(index)
            reference.select(index)
            first_key = reference.first_key
            spans = spans if isinstance(spans, int) else spans[index]


def test_memory_falls_to_the_span_and_the_sinks_and_stays_there() -> None:
    layer = filled(500, span=32)
    slots = 32 + 2
    assert layer.nbytes == 2 * HEADS * slots * SIZE * 4
    positions = layer.positions()[0]
    assert sorted(positions[positions >= 0].tolist()) == [0, 1, *range(469, 500)]
    assert layer.get_seq_length() == 500
    assert layer.get_mask_sizes(1) == (501, 0)
    before = layer.nbytes
    append(layer, numbered(1))
    assert layer.nbytes == before
    layer.trim(5, 2)
    assert layer.nbytes == 2 * HEADS * (5 + 2) * SIZE * 4


def test_memory_without_trimming_grows_in_steps() -> None:
    layer = SpanCacheLayer()
    pointers = set()
    for block in numbered(400).split(1, dim=2):
        append(layer, block)
        assert layer.keys is not None
        pointers.add(layer.keys.data_ptr())
    assert len(pointers) <= 6
    assert layer.keys is not None
    torch.testing.assert_close(layer.keys, numbered(400))
    assert layer.nbytes <= 1.4 * 2 * layer.keys.nbytes


def test_sequences_of_a_batch_keep_different_numbers_of_keys() -> None:
    layer = SpanCacheLayer()
    append(layer, numbered(20, batch=2))
    layer.trim(torch.tensor([4, 9]), 1)
    positions = layer.positions()
    held = [sorted(row[row >= 0].tolist()) for row in positions]
    assert held == [[0, 17, 18, 19], [0, 12, 13, 14, 15, 16, 17, 18, 19]]
    assert layer.keys is not None
    for row, keys in enumerate(layer.keys):
        is_held = positions[row] >= 0
        expected = positions[row][is_held] + 1000.0 * row
        torch.testing.assert_close(keys[0, is_held, 0], expected)


def test_what_was_dropped_stays_dropped_at_a_longer_span() -> None:
    layer = filled(40, span=6)
    for position in range(40, 50):
        append(layer, torch.full((1, HEADS, 1, SIZE), float(position)))
        layer.trim(FULL_SPAN, 2)
    positions = layer.positions()[0]
    assert sorted(positions[positions >= 0].tolist()) == [0, 1, *range(35, 50)]


def test_operations_on_the_batch_take_first_keys_and_streams_along() -> None:
    layer = SpanCacheLayer()
    append(layer, numbered(10, batch=2))
    layer.set_first_key(torch.tensor([0, 3]))
    layer.stream = StreamState(None, torch.tensor([4, 9]), 10, [numbered(2, batch=2)[:, 0]])
    layer.trim(layer.stream.spans, 1)
    expected = layer.positions()
    layer.batch_repeat_interleave(2)
    assert torch.equal(layer.positions(), expected[[0, 0, 1, 1]])
    assert layer.stream.spans.tolist() == [4, 4, 9, 9]
    assert layer.stream.last_inputs(1)[:, 0, 0].tolist() == [1, 1, 1001, 1001]
    layer.batch_select_indices(torch.tensor([1, 3]))
    assert torch.equal(layer.positions(), expected)
    layer.reorder_cache(torch.tensor([1, 1]))
    assert torch.equal(layer.positions(), expected[[1, 1]])
    assert layer.stream.spans.tolist() == [9, 9]
    assert layer.keys is not None
    assert layer.keys[:, 0, -1, 0].tolist() == [1009, 1009]


def test_copies_offloading_and_reset() -> None:
    layer = filled(40, span=6)
    twin = copy.deepcopy(layer)
    append(twin, numbered(1))
    assert layer.num_tokens == 40
    layer.offload()
    layer.prefetch()
    append(layer, numbered(1))
    assert layer.keys is not None
    assert twin.keys is not None
    torch.testing.assert_close(layer.keys, twin.keys)
    layer.reset()
    assert (layer.get_seq_length(), layer.nbytes, layer.is_croppable) == (0, 0, True)
    append(layer, numbered(5))
    assert layer.positions().tolist() == [[0, 1, 2, 3, 4]]


def test_the_last_tokens_are_removed_unless_keys_were_dropped() -> None:
    layer = filled(12)
    layer.crop(-3)
    append(layer, numbered(1) + 50)
    assert layer.keys is not None
    assert layer.keys[0, 0, :, 0].tolist() == [*range(9), 50]
    trimmed = filled(12, span=3)
    assert not trimmed.is_croppable
    with pytest.raises(ValueError, match="dropped keys cannot be cropped"):
        trimmed.crop(-1)
    layer.crop(2)
    assert layer.positions().tolist() == [[0, 1]]


def test_a_trimmed_cache_is_refused_outside_control() -> None:
    layer = filled(12, span=3)
    with pytest.raises(ValueError, match=r"dropped keys under spangym\.control"):
        layer.update(numbered(1), numbered(1))
    layer = filled(12)
    assert torch.equal(layer.update(numbered(1), numbered(1))[0][:, :, :12], numbered(12))


def test_placeholders_have_the_lengths_of_the_text_and_no_memory() -> None:
    layer = filled(40, span=6)
    keys = append(layer, numbered(1))
    assert keys.shape == (1, HEADS, 41, SIZE)
    assert keys.isnan().all()
    assert keys.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("window", [4, 16])
def test_native_windows_continue_as_without_control(window: int) -> None:
    """The keys and lengths are those of Transformers' own layer, whose place it takes."""
    own, layer = DynamicSlidingWindowLayer(window), SpanCacheLayer(window)
    blocks = numbered(40).split([9, 1, 1, 5, *[1] * 24], dim=2)
    for number, block in enumerate(blocks):
        # Old versions of Transformers pass positions.
        is_old = "cache_position" in inspect.signature(own.get_mask_sizes).parameters
        queries: Any = torch.arange(block.shape[2]) if is_old else block.shape[2]
        assert layer.get_mask_sizes(queries) == own.get_mask_sizes(queries)
        expected = own.update(block, block + 1)
        if number == len(blocks) - 1:
            # The last token comes without control.
            torch.testing.assert_close(layer.update(block, block + 1), expected)
            break
        append(layer, block)
        layer.trim(FULL_SPAN, 4)
        assert layer.get_seq_length() == own.get_seq_length()
    assert layer.nbytes <= 2 * HEADS * (window + 4) * SIZE * 4


@pytest.mark.parametrize("window", [None, 6])
def test_a_layer_replaces_one_that_has_keys(window: int | None) -> None:
    cache = DynamicCache()
    cache.layers.append(DynamicLayer() if window is None else DynamicSlidingWindowLayer(window))
    cache.update(numbered(10), numbered(10) + 1, 0)
    layer = adopt_layer(cache, 0)
    assert adopt_layer(cache, 0) is layer is cache.layers[0]
    expected = [[*range(10)]] if window is None else [[*range(5, 10)]]
    assert layer.positions().tolist() == expected
    assert layer.get_mask_sizes(2) == ((12, 0) if window is None else (7, 5))
    append(layer, numbered(1) + 10)
    positions = layer.positions()
    torch.testing.assert_close(layer.keys[0, 0, :, 0], positions[0].float())  # type: ignore[index]


def test_layers_are_made_and_found() -> None:
    cache = DynamicCache()
    assert adopt_layer(cache, 2) is cache.layers[2]
    assert type(cache.layers[0]) is DynamicLayer
    assert find_cache({"hidden_states": 1, "past_key_values": cache}) is cache
    assert find_cache({"cache": None}) is None
    with pytest.raises(ValueError, match="without layer_idx"):
        adopt_layer(cache, None)


def test_other_caches_are_refused() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"need a DynamicCache, but layer 0 .* is a StaticLayer"):
        adopt_layer(StaticCache(config, max_cache_len=8), 0)


def test_gradients_pass_through_growing_and_trimmed_caches() -> None:
    keys = (numbered(12) + 1).requires_grad_()
    layer, total = SpanCacheLayer(), torch.zeros(())
    for block in keys.split([6, *[1] * 6], dim=2):
        append(layer, block)
        held = layer.select(1, 4, 1, needs_positions=False)
        total = total + held.keys.square().sum()
        layer.trim(4, 1)
    total.backward()
    assert keys.grad is not None
    counts = keys.grad[0, 0, :, 0] / (2 * keys.detach()[0, 0, :, 0])
    assert counts.tolist() == [7, 0, 1, 2, 3, 4, 4, 4, 4, 3, 2, 1]
