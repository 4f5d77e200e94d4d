import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.agents import Refiner
from spangym.attention import (
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    MultiHeadAttention,
)
from tests.factories import make_layer

ORIGINALS = pytest.mark.parametrize(
    "layer_class", [IntegratedAttention, FocusAttention, HybridAttention]
)


def test_hybrid_span_is_the_prediction(x: Tensor):
    layer = make_layer(HybridAttention, temperature_law="shorter")
    output = layer.step(x)
    expected = torch.sigmoid(layer.span_pred.linear(output.cache.global_mean))[:, 0]
    torch.testing.assert_close(output.span_scale, expected)
    assert layer.attn_local.temperature(torch.ones(1)).item() == pytest.approx(0.8)


def test_hybrid_has_no_refiner():
    layer = make_layer(HybridAttention)
    with pytest.raises(AttributeError, match=r"HybridAttention .* refiner"):
        layer.refiner = Refiner()
    assert not hasattr(layer, "refiner")


@pytest.mark.parametrize("layer_class", [FocusAttention, HybridAttention])
def test_global_path_keeps_no_cache(layer_class: type, x: Tensor):
    layer = make_layer(layer_class)
    assert type(layer.attn_global) is MultiHeadAttention
    assert layer.step(x).cache.key_value is None


@pytest.mark.parametrize("layer_class", [FocusAttention, HybridAttention])
def test_refresh_predictors_need_a_cache(layer_class: Any):
    with pytest.raises(ValueError, match=f"use_refresh_predictors .*{layer_class.__name__}"):
        make_layer(layer_class, use_refresh_predictors=True)


def test_hybrid_has_its_documents_defaults():
    for make in (HybridAttention, HybridAttention.original):
        config = make(64, 32, 4).config
        assert (config.win_size, config.max_span, config.num_refinement_steps) == (32, 32, 1)
        assert config.temperature_law == "shorter"


class TestOriginal:
    @ORIGINALS
    def test_is_of_its_class(self, layer_class: Any):
        layer = layer_class.original(64, 32, 4)
        assert isinstance(layer, layer_class)
        others = {IntegratedAttention, FocusAttention, HybridAttention} - {*layer_class.mro()}
        assert not isinstance(layer, tuple(others))

    @ORIGINALS
    def test_of_a_subclass_is_an_error(self, layer_class: Any):
        subclass = type("Subclass", (layer_class,), {})
        with pytest.raises(TypeError, match="Subclass has no original"):
            subclass.original(64, 32, 4)

    @ORIGINALS
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_dist", 40),
            ("win_size", 20),
            ("max_span", 390),
            ("temp_scale", 0.5),
            ("temperature_law", "none"),
            ("action_scale", "absolute"),
            ("fused", True),
            ("fused", False),
            ("fixes", ("temperature", "cut")),
        ],
    )
    def test_every_option_has_an_effect(self, layer_class: Any, name: str, value: Any):
        sizes = {"win_size": 8, "max_span": 24, "max_dist": 64}
        default = layer_class.original(64, 32, 4, **sizes).config
        config = layer_class.original(64, 32, 4, **{**sizes, name: value}).config
        assert getattr(config, name) == value
        assert vars(config) == {**vars(default), name: value}

    @ORIGINALS
    @torch.no_grad()
    def test_fused_attention_ignores_the_temperature(self, layer_class: Any, x: Tensor):
        def run(fused: bool, temp_scale: float) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            sizes = {"win_size": 8, "max_span": 12, "temp_scale": temp_scale}
            layer = layer_class.original(70, 32, 4, **sizes, fused=fused, generator=generator)
            return layer.attn_local(x, torch.full((3,), 0.5)).output

        assert torch.equal(run(True, 0.0), run(True, 0.5))
        assert not torch.equal(run(False, 0.0), run(False, 0.5))

    @ORIGINALS
    @torch.no_grad()
    def test_ignores_masks_and_cross_attention_input(self, layer_class: Any, x: Tensor):
        layer = layer_class.original(70, 32, 4, win_size=8, max_span=12)
        mask = torch.rand(70, 50) < 0.5
        assert torch.equal(layer(x), layer(x, x[:, :50], mask))

    @ORIGINALS
    @torch.no_grad()
    @pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
    def test_takes_all_floating_types(self, layer_class: Any, name: str, x: Tensor):
        layer, dtype = (
            layer_class.original(70, 32, 4, win_size=8, max_span=12),
            getattr(torch, name),
        )
        output = layer.step(x.to(dtype))
        assert output.output.dtype == dtype
        assert output.output.isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert len(layer.step(x.to(dtype)).next_state) == 1

    @ORIGINALS
    @torch.no_grad()
    def test_copies_run_alike(self, layer_class: Any, x: Tensor):
        layer = layer_class.original(70, 32, 4, win_size=8, max_span=12).eval()
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(layer(x), other(x))
