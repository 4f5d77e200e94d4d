"""Floating inputs of every dtype, whatever the dtype of the weights; other dtypes are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spangym.agents import Refiner
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
from spangym.attention.layers.modules import (
    BatchInvariantLinear,
    CastingLayerNorm,
    CastingLinear,
)
from tests.factories import POLICY_DIMS, SMALL_SPANS, make_exported_policy, make_layer

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
REFUSED = [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]
OPTIONS = {"num_refinement_steps": 2, "local_projections": True, "num_induction_heads": 1}


def make_original(layer_class: Any = IntegratedAttention) -> Any:
    generator = torch.Generator().manual_seed(0)
    return layer_class.original(96, 32, 4, **SMALL_SPANS, generator=generator)


LAYERS: dict[str, Callable[[], Any]] = {
    "integrated": lambda: make_layer(**OPTIONS),
    "integrated causal": lambda: make_layer(**OPTIONS, causal=True, soft_span=True),
    "focus": lambda: make_layer(FocusAttention, **OPTIONS),
    "hybrid": lambda: make_layer(HybridAttention, **OPTIONS, soft_span=True),
    "pooled": lambda: make_layer(**OPTIONS, global_path="pooled"),
    "pooled causal": lambda: make_layer(**OPTIONS, causal=True, global_path="pooled", pool=4),
    "no global path": lambda: make_layer(FocusAttention, **OPTIONS, global_path="none"),
    "original": make_original,
    "original focus": lambda: make_original(FocusAttention),
    "original hybrid": lambda: make_original(HybridAttention),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_output_has_the_inputs_dtype(name: str, dtype: torch.dtype, x: Tensor):
    layer, expected = LAYERS[name](), LAYERS[name]().step(x)
    for weights in (torch.float32, torch.float16, torch.float64):
        layer.to(weights).zero_grad()
        output = layer.step(x.to(dtype))
        y = output.output
        assert y.dtype == dtype
        # The original's windows are sensitive to their span, which half precision may round.
        if not name.startswith("original") or torch.equal(output.span, expected.span):
            assert (y.float() - expected.output).abs().mean() < 0.02
        y.float().square().sum().backward()
        for parameter in layer.parameters():
            if parameter.grad is not None:
                assert parameter.grad.dtype == weights
                assert parameter.grad.isfinite().all()
        gradient = layer.projection.weight.grad
        assert gradient is not None
        assert gradient.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_entry_points(name: str, dtype: torch.dtype, x: Tensor):
    layer, half = LAYERS[name](), x.to(dtype)
    first = layer.step(half, return_stats=True)
    # The dtype may change on a stream.
    for other in DTYPES:
        second = layer.step(x.to(other), cache=first.cache)
        assert second.output.dtype == second.local_output.dtype == other
        assert second.reward.isfinite().all()
    at_least_single = torch.promote_types(dtype, torch.float32)
    assert first.stats is not None
    assert first.stats.entropy.dtype == first.reward.dtype == at_least_single
    assert layer.obs_features(half).dtype == at_least_single
    assert len(first.state) == len(first.next_state)
    if isinstance(layer, IntegratedAttention):
        assert layer.forward_with_action(half, 7, cache=first.cache).output.dtype == dtype
        layer.refiner = Refiner(seed=0)
        actions = layer.select_actions(half)
        assert actions is not None
        assert not actions.any()  # The table is empty.
        assert layer.train()(half).dtype == dtype
        layer.eval().refiner = None
    if name.startswith("original"):
        return
    for other in DTYPES:
        xa = x[:, :30].to(other)
        assert layer(half, xa).dtype == dtype
        assert torch.equal(layer(half, xa), layer(half, xa.to(dtype)))
    for path in ("local",) if layer.attn_global is None else ("local", "global"):
        assert layer.attention_weights(half, path=path).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ["digits", "features", "state"])
def test_exported_controllers(encoding: str, dtype: torch.dtype, generator: torch.Generator):
    layer = IntegratedAttention(48, POLICY_DIMS, 2, generator=generator)
    x = torch.randn(2, 40, POLICY_DIMS, generator=generator)
    layer.refiner = make_exported_policy(encoding)
    actions = layer.select_actions(x.to(dtype))
    assert torch.equal(layer(x.to(dtype)), layer.forward_with_action(x.to(dtype), actions).output)


@pytest.mark.parametrize("dtype", DTYPES)
def test_paths(dtype: torch.dtype, x: Tensor):
    half, scale = x.to(dtype), torch.tensor([0.5, 1.0, 0.0])
    config = SpanConfig(**SMALL_SPANS, local_projections=True)
    results = [
        AdaptiveSpan(4, config)(half, x, x.double(), scale).output,
        AdaptiveSpan.original(4)(half, x, x.double(), scale).output,
        SlidingWindowAttention(32, 4, config)(half, scale).output,
        SlidingWindowAttention(32, 4, config)(half, scale.to(dtype), x).output,
        MultiHeadAttention(32, 4)(half, x.double()),
        AdaptiveUpdateAttention(32, 4)(half, x)[0],
    ]
    assert {each.dtype for each in results} == {dtype}


@pytest.mark.parametrize("dtype", REFUSED)
@pytest.mark.parametrize("name", LAYERS)
def test_other_dtypes_are_refused_by_layers(name: str, dtype: torch.dtype, x: Tensor):
    layer, wrong = LAYERS[name](), torch.ones(3, 70, 32).to(dtype)
    message = rf"has type {dtype}; it must be float16, bfloat16, float32 or float64"
    calls: list[Callable[[], object]] = [
        lambda: layer(wrong),
        lambda: layer.step(wrong),
        lambda: layer.obs_features(wrong),
        lambda: layer(x, wrong),
    ]
    if not name.startswith("original"):
        calls.append(lambda: layer.attention_weights(wrong))
    if isinstance(layer, IntegratedAttention):
        calls += [
            lambda: layer.forward_with_action(wrong, 3),
            lambda: layer.select_actions(wrong),
        ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("dtype", REFUSED)
def test_other_dtypes_are_refused_by_paths(dtype: torch.dtype, x: Tensor):
    wrong, scale = torch.ones(3, 70, 32).to(dtype), torch.ones(3)
    config = SpanConfig(**SMALL_SPANS)
    span, sliding = AdaptiveSpan(4, config), SlidingWindowAttention(32, 4, config)
    whole, cached = MultiHeadAttention(32, 4), AdaptiveUpdateAttention(32, 4)
    for call in (
        lambda: span(wrong, x, x, scale),
        lambda: span(x, wrong, x, scale),
        lambda: span(x, x, wrong, scale),
        lambda: span(x, x, x, scale.to(dtype)),
        lambda: sliding(wrong, scale),
        lambda: sliding(x, scale, wrong),
        lambda: whole(wrong),
        lambda: whole(x, wrong),
        lambda: cached(wrong),
    ):
        with pytest.raises(ValueError, match=f"has type {dtype}; it must be float16"):
            call()


def test_inputs_that_are_no_tensors_are_refused():
    with pytest.raises(ValueError, match="x is a list"):
        make_layer()([[1.0]])


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_treats_weights_as_torch_does(
    autocast: torch.dtype, dtype: torch.dtype, x: Tensor
):
    for casting, plain in (
        (CastingLinear(32, 8), nn.Linear(32, 8)),
        (CastingLayerNorm(32), nn.LayerNorm(32)),
    ):
        plain.load_state_dict(casting.state_dict())
        with torch.autocast("cpu", autocast):
            got, expected = casting(x.to(dtype)), plain(x.to(dtype))
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_leaves_double_precision_alone(name: str, x: Tensor):
    layer = LAYERS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.double())
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, layer(x.double()))


def test_casting_equals_converted_weights(x: Tensor):
    for module in (CastingLinear(32, 8), CastingLayerNorm(32), BatchInvariantLinear(32, 8)):
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            got = module.float()(x.to(dtype)[:, 0])
            assert got.dtype == dtype
            assert torch.equal(got, module.to(dtype)(x.to(dtype)[:, 0]))
