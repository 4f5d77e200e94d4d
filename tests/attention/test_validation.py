"""Checks of sizes, inputs, lengths, masks and actions, through the layers that use them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import (
    AdaptiveSpan,
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    MultiHeadAttention,
    SlidingWindowAttention,
    SpanConfig,
)
from tests.factories import make_layer


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((64, 32, 5), "head .* head=5, dims=32"),
        ((0, 32, 4), "ctx .* 0"),
        ((9.5, 32, 4), r"ctx .* integer, got 9\.5"),
        ((64, 3, 1), "dims .* 3"),
    ],
)
def test_sizes_of_layers(sizes: tuple[Any, ...], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        IntegratedAttention(*sizes)


def test_sizes_of_paths():
    for make_path, message in [
        (lambda: MultiHeadAttention(10, 4), "head=4, dims=10"),
        (lambda: AdaptiveUpdateAttention(3, 1), "dims .* 3"),
        (lambda: AdaptiveSpan(0, SpanConfig()), "head .* 0"),
        (lambda: SlidingWindowAttention(10, 3, SpanConfig()), "head=3, dims=10"),
        (
            lambda: SlidingWindowAttention(8, 2, SpanConfig(num_induction_heads=3)),
            "num_induction_heads .* 3, head=2",
        ),
        (
            lambda: SlidingWindowAttention(8, 2, SpanConfig(num_induction_heads=-1)),
            "num_induction_heads .* -1",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            make_path()


@pytest.mark.parametrize("shape", [(0, 10, 32), (1, 97, 32), (1, 0, 32), (1, 10, 31), (10, 32)])
def test_shape_of_the_input(shape: tuple[int, ...]):
    layer = make_layer()
    with pytest.raises(ValueError, match=r"x has shape .* 1 to 96"):
        layer(torch.zeros(shape))
    with pytest.raises(ValueError, match="x has shape"):
        layer.select_actions(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.ones(3, 1, 70, 69)}, r"mask has shape .*\(3, 4, 70, 70\)"),
        ({"mask": torch.ones(2, 3, 1, 70, 70)}, "mask has shape"),
        ({"mask": torch.ones(70, 70, dtype=torch.int64)}, r"mask .* torch\.int64"),
        ({"mask": [True]}, "mask .* list"),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, "lengths has shape"),
        ({"lengths": torch.ones(3)}, "lengths .* integers"),
        ({"lengths": [70, 3, 2]}, "lengths .* list"),
        ({"lengths": torch.tensor([70, 71, 3])}, r"lengths .*\[0, 70\], got \[70, 71, 3\]"),
        ({"xa": torch.ones(2, 5, 32)}, r"xa has shape .* \(3, keys, 32\)"),
        ({"xa": torch.ones(3, 0, 32)}, "xa .* at least"),
        ({"xa": torch.ones(3, 5, 32).long()}, r"xa .* torch\.int64"),
        ({"xa_lengths": torch.ones(3, dtype=torch.int64)}, "xa_lengths .* without xa"),
    ],
)
@pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention, HybridAttention])
def test_inputs_of_layers(layer_class: Any, arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_layer(layer_class)(torch.zeros(3, 70, 32), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.ones(10, 10, dtype=torch.int64)}, r"mask .* torch\.int64"),
        ({"mask": torch.ones(10, 9)}, "mask has shape"),
        ({"key_lengths": torch.ones(1, dtype=torch.int64)}, "key_lengths has shape"),
        ({"key_lengths": torch.ones(2)}, "key_lengths has shape"),
    ],
)
def test_inputs_of_paths(arguments: dict[str, Any], message: str):
    x, scale = torch.randn(2, 10, 8), torch.ones(2)
    for run in (
        lambda: MultiHeadAttention(8, 2)(x, **arguments),
        lambda: AdaptiveSpan(2, SpanConfig())(x, x, x, scale, **arguments),
        lambda: SlidingWindowAttention(8, 2, SpanConfig())(x, scale, **arguments),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_queries_keys_and_scales():
    x, span = torch.zeros(3, 70, 32), AdaptiveSpan(4, SpanConfig())
    ones = torch.ones(3)
    for q, k, v, scale, message in [
        (x[0], x, x, ones, "q has shape"),
        (x, x[:2], x[:2], ones, "k and v"),
        (x, x, x[:, 1:], ones, "k and v"),
        (x, x, x, torch.ones(3, 1), "scale has shape"),
        (x, x, x, torch.tensor([0.5, 1.1, 0.0]), r"scale .*\[0, 1\]"),
        (x, x, x, torch.tensor([0.5, -0.1, 0.0]), r"scale .*\[0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            span(q, k, v, scale)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (-1, r"0\.\.9, got -1"),
        (10, r"0\.\.9, got 10"),
        (9.0, r"0\.\.9, got 9\.0"),
        (torch.zeros(3), r"action .*\(3,\) .* torch\.float32"),
        (torch.zeros(2).long(), "action has shape"),
        (torch.zeros(3, 1).long(), "action has shape"),
        (torch.tensor([0, 9, 12]), r"action .*\[0, 9\], got \[0, 9, 12\]"),
    ],
)
def test_actions(action: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make_layer().forward_with_action(torch.zeros(3, 70, 32), action)


@pytest.mark.parametrize(
    ("layer_class", "recompute_kv", "message"),
    [
        (IntegratedAttention, torch.ones(3, 2), r"recompute_kv .*\(3, 2\)"),
        (IntegratedAttention, torch.ones(2, 2).bool(), r"recompute_kv .*\(3, 2\)"),
        (FocusAttention, torch.ones(3, 2).bool(), "FocusAttention keeps no"),
    ],
)
def test_recompute_kv(layer_class: Any, recompute_kv: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        make_layer(layer_class).forward_with_action(
            torch.zeros(3, 70, 32), 5, recompute_kv=recompute_kv
        )


def test_nan_in_one_sequence_stays_there():
    x = torch.randn(3, 70, 32, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] = torch.nan
    output = make_layer()(x)
    assert output[0].isnan().any()
    assert output[1:].isfinite().all()
