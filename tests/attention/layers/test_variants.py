import pytest
import torch
from torch import Tensor

from spangym.agents import Refiner
from spangym.attention import FocusAttention, HybridAttention, MultiHeadAttention
from tests.factories import make_layer


def test_hybrid_span_is_the_prediction(x: Tensor):
    layer = make_layer(HybridAttention, temperature_law="shorter")
    output = layer.step(x)
    expected = torch.sigmoid(layer.span_pred.linear(output.cache.global_mean))[:, 0]
    torch.testing.assert_close(output.span_scale, expected)
    assert layer.attn_local.temperature(torch.ones(1)).item() == pytest.approx(0.8)
    assert HybridAttention(64, 32, 4).config.win_size == 32


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
