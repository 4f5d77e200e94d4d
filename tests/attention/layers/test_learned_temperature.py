"""A learned temperature: a positive parameter of each head."""

from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import AdaptiveSpan, FocusAttention, HybridAttention, IntegratedAttention
from spangym.attention.kernels import cpu, reference
from spangym.attention.layers.modules import merge_heads, split_heads
from tests.factories import make_layer

LAYERS = pytest.mark.parametrize(
    "layer_class", [IntegratedAttention, FocusAttention, HybridAttention]
)
OPTIONS = [
    {},
    {"causal": True, "soft_span": True},
    {"num_refinement_steps": 1, "local_projections": True, "num_induction_heads": 1},
]
TEMPERATURES = torch.tensor([0.2, 0.7, 1.0, 3.0])


def make_learned(layer_class: Any = IntegratedAttention, **options: Any) -> Any:
    layer = make_layer(layer_class, temperature_law="learned", **options)
    layer.attn_local.log_temperature.data = TEMPERATURES.log()
    return layer


@LAYERS
def test_starts_at_one_and_is_redrawn(layer_class: Any, x: Tensor):
    layer = make_layer(layer_class, temperature_law="learned")
    plain = make_layer(layer_class, temperature_law="none")
    assert torch.equal(layer(x), plain(x))
    layer.attn_local.log_temperature.data += 1
    assert not torch.equal(layer(x), plain(x))
    layer.reset_parameters(torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), plain(x))
    assert plain.attn_local.log_temperature is None


@pytest.mark.parametrize("options", OPTIONS)
def test_divides_the_scores_of_its_head(options: dict[str, Any], x: Tensor):
    """Values are read through the weights; queries of one pass are divided by hand."""
    layer = make_learned(**options)
    config = make_layer(temperature_law="none", **options).config
    scale = torch.tensor([0.3, 1.0, 0.8])
    q, k, v = layer.attn_local.project(x)
    steps = 1
    got = AdaptiveSpan.forward(layer.attn_local, q, k, v, scale, num_refinement_steps=steps)
    divided = merge_heads(split_heads(q, 4) / TEMPERATURES[:, None, None])
    expected = AdaptiveSpan(4, config)(divided, k, v, scale, num_refinement_steps=steps)
    torch.testing.assert_close(got.output, expected.output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_kernels_agree(options: dict[str, Any], x: Tensor, monkeypatch: pytest.MonkeyPatch):
    results = []
    for kernel in (cpu.attend, cpu.attend_windows, reference.attend):
        with monkeypatch.context() as patch:
            patch.setattr(
                "spangym.attention.layers.adaptive_span.select_kernel",
                lambda _, kernel=kernel: kernel,
            )
            layer = make_learned(**options).double()
            output = layer.forward_with_action(x.double(), torch.tensor([3, 9, 6]))
            output.output.square().sum().backward()
            gradient = layer.attn_local.log_temperature.grad
            assert (gradient != 0).all()
            results.append((output.output, gradient))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-6)


@LAYERS
def test_learns_and_is_stored(layer_class: Any, x: Tensor):
    layer = make_learned(layer_class).train()
    optimizer = torch.optim.SGD(layer.attn_local.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    temperatures = layer.attn_local.temperature(torch.ones(3))
    assert temperatures.shape == (3, 4)
    assert (temperatures > 0).all()
    assert not torch.allclose(temperatures[0], TEMPERATURES)
    layer.attn_local.log_temperature.data[:2] = torch.tensor([-1e3, 1e3])
    layer(x).square().sum().backward()
    assert all(each.grad.isfinite().all() for each in layer.attn_local.parameters())
    other = make_layer(layer_class, temperature_law="learned")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("options", [{}, {"scale_weights": True}])
def test_attention_weights(options: dict[str, Any], x: Tensor):
    layer = make_learned(**options)
    output = layer.forward_with_action(x, 9)
    weights = layer.attention_weights(x, scale=output.span_scale)
    local_output = merge_heads(weights @ split_heads(layer.ln_a(x), 4))
    torch.testing.assert_close(local_output, output.local_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_in_other_dtypes(dtype: torch.dtype, x: Tensor):
    layer = make_learned(num_refinement_steps=2)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    assert (y.float() - layer(x)).abs().mean() < 0.05
    y.sum().backward()
    assert layer.attn_local.log_temperature.grad.dtype == torch.float32


@pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention, HybridAttention])
def test_the_originals_have_none(layer_class: Any):
    with pytest.raises(ValueError, match=r"temperature_law 'learned' .*original lacks"):
        layer_class.original(96, 32, 4, temperature_law="learned")
