"""The original layer: recorded results, what it shares in a batch, and each fixed defect."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import (
    AdaptiveUpdateAttention,
    IntegratedAttention,
    LayerCache,
    SpanConfig,
)
from spangym.attention.original.layer import OriginalAdaptiveUpdateAttention
from spangym.attention.original.truncation import FIXABLE_DEFECTS
from tests.factories import RecordingController, recorded_parameters, relative_error

from ...conftest import Golden

LOCAL_FIXES = ("temperature", "local_causal", "cut")


def make_original(fixes: str | Iterable[str] = (), **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    sizes = {"win_size": 8, "max_span": 14, "temp_scale": 0.7, **options}
    return IntegratedAttention.original(30, 16, 2, **sizes, fixes=fixes, generator=generator).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_reproduces_the_original_for_every_action(golden: Golden, case: int):
    recorded = golden("integrated_sdpa")
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    names = ("ctx", "dims", "head", "max_dist", "win_size", "max_span", "temp_scale")
    layer = IntegratedAttention.original(**{name: meta[name] for name in names})
    layer.load_state_dict(recorded_parameters(recorded, f"case{case}.param."))
    x = torch.from_numpy(recorded[f"case{case}.x"])
    for action in range(10):
        prefix = f"case{case}.action{action}."
        output = layer.forward_with_action(x, action)
        expected = torch.from_numpy(recorded[prefix + "out"])
        # Processors round differently: relative to the largest number.
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(output.output, expected, rtol=0, atol=atol)
        assert output.reward.item() == pytest.approx(recorded[prefix + "reward"], abs=1e-5)
        assert output.state == [recorded[prefix + "state"]]
        assert output.next_state == [recorded[prefix + "next_state"]]


@torch.no_grad()
def test_global_path_reproduces_the_original_on_a_stream(golden: Golden):
    recorded = golden("adaptive_update")
    attention = OriginalAdaptiveUpdateAttention(16, 4, causal=False, use_refresh_predictors=True)
    attention.load_state_dict(recorded_parameters(recorded, "param."))
    cache = None
    for step in range(8):
        out, cache = attention(torch.from_numpy(recorded[f"x{step}"]), cache=cache)
        for name, found in (("out", out), ("key", cache.keys), ("value", cache.values)):
            expected = torch.from_numpy(recorded[f"{name}{step}"])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_batch_shares_one_action_and_the_refiner_learns_in_eval_mode(generator: torch.Generator):
    layer, refiner = make_original(), RecordingController(7)
    layer.refiner = refiner
    x = torch.randn(3, 30, 16, generator=generator)
    output = layer.forward_with_action(x, 7)
    assert torch.equal(layer(x), output.output)
    state, next_state = output.state[0], output.next_state[0]
    assert refiner.updates == [(state, 7, output.reward.item(), next_state)]
    assert refiner.states == [state]
    assert len(set(output.span.tolist())) == 1


@torch.no_grad()
def test_global_path_with_all_defects_fixed_equals_the_default(x: Tensor):
    fixed = OriginalAdaptiveUpdateAttention(16, 2, causal=False, scaled_twice=False)
    default = AdaptiveUpdateAttention(16, 2)
    default.load_state_dict(fixed.state_dict())
    torch.testing.assert_close(fixed(x)[0], default(x)[0])


@pytest.mark.parametrize("fixes", FIXABLE_DEFECTS)
@torch.no_grad()
def test_fix_changes_one_path_only(fixes: str, x: Tensor):
    original, layer = make_original(), make_original(fixes)
    assert original.state_dict().keys() == layer.state_dict().keys()
    scale = torch.tensor([0.6])
    same_local = torch.equal(
        original.attn_local(x, scale).output, layer.attn_local(x, scale).output
    )
    same_global = torch.equal(original.attn_global(x)[0], layer.attn_global(x)[0])
    assert (same_local, same_global) == (fixes not in LOCAL_FIXES, fixes in LOCAL_FIXES)
    outputs = [each.forward_with_action(x, 9).output for each in (original, layer)]
    assert not torch.equal(*outputs)


@torch.no_grad()
def test_with_all_defects_fixed_equals_the_default(x: Tensor):
    fixed = make_original(FIXABLE_DEFECTS)
    config = SpanConfig(win_size=8, max_span=14, temp_scale=0.7)
    generator = torch.Generator().manual_seed(0)
    default = IntegratedAttention(30, 16, 2, config, generator=generator).eval()
    # A span of less than one key turns the local path off, which has no fix.
    for action in range(2, 10):
        one, other = (each.forward_with_action(x, action) for each in (fixed, default))
        torch.testing.assert_close(one.output, other.output)
        assert one.qk_pairs.item() == other.qk_pairs.item()


@torch.no_grad()
def test_several_fixes_at_once(x: Tensor):
    """Each fix has its effect beside the others, in any order; one name may be a string."""
    fixes = ("cut", "global_causal", "temperature")
    layer = make_original(fixes)
    assert torch.equal(layer(x), make_original(sorted(fixes, reverse=True))(x))
    for left_out in fixes:
        fewer = make_original([name for name in fixes if name != left_out])
        assert not torch.equal(layer(x), fewer(x))
    assert torch.equal(make_original("cut")(x), make_original(["cut", "cut"])(x))


@torch.no_grad()
def test_without_fused_attention_reproduces_the_original(golden: Golden):
    recorded = golden("sliding_local_matmul")
    meta = json.loads(str(recorded["case1.meta"]))
    names = ("ctx", "dims", "head", "max_dist", "win_size", "max_span", "temp_scale")
    layer = IntegratedAttention.original(**{name: meta[name] for name in names}, fused=False)
    for action in range(5):
        x, scale, expected = (
            torch.from_numpy(recorded[f"case1.action{action}.{name}"])
            for name in ("x", "span_scale", "out")
        )
        assert relative_error(layer.attn_local(x, scale[:, 0]).output, expected) < 1e-5


@pytest.mark.parametrize("fixes", ["", *FIXABLE_DEFECTS])
def test_only_its_fix_makes_a_difference(fixes: str, x: Tensor):
    """The temperature reaches the local path, and later tokens the global path, with a fix only."""
    cold, warm = (
        make_original(fixes, temp_scale=each).attn_local(x, torch.tensor([0.6])).output
        for each in (0.0, 2.0)
    )
    assert torch.equal(cold, warm) == (fixes != "temperature")
    x.requires_grad_()
    first = make_original(fixes).attn_global(x)[0][0, 0]
    (gradient,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(gradient[0, -1].any()) == (fixes == "global_causal")


@torch.no_grad()
def test_double_scale(x: Tensor):
    original, fixed = (
        each.query_module(x) @ each.key_module(x).transpose(-1, -2)
        for each in (make_original().attn_global, make_original("double_scale").attn_global)
    )
    torch.testing.assert_close(original * 8**0.5, fixed)


@torch.no_grad()
def test_absolute_actions(x: Tensor):
    layer = make_original(action_scale="absolute")
    assert layer.forward_with_action(x, 9).span.item() == 14
    assert layer.forward_with_action(x, 3).span_scale.item() == pytest.approx(1 / 3)


@torch.no_grad()
def test_statistics_of_a_path_that_is_off(x: Tensor):
    stats = make_original().forward_with_action(x, 0, return_stats=True).stats
    assert stats is not None
    assert all(getattr(stats, name).item() == 0 for name in ("span", "coverage", "entropy"))


@torch.no_grad()
def test_stream_recomputes_keys_and_values(golden: Golden):
    recorded = golden("stream")
    sizes = json.loads(str(recorded["meta"]))
    layers = [IntegratedAttention.original(**sizes) for _ in range(2)]
    caches: list[LayerCache | None] = [None, None]
    for index, layer in enumerate(layers):
        layer.load_state_dict(recorded_parameters(recorded, f"layer{index}.param."))
    for step in range(6):
        x = torch.from_numpy(recorded[f"pass{step}.x"])
        for index, layer in enumerate(layers):
            prefix = f"pass{step}.layer{index}."
            action = int(recorded[prefix + "action"])
            output = layer.forward_with_action(x, action, cache=caches[index])
            x, caches[index] = output.output, output.cache
            expected = torch.from_numpy(recorded[prefix + "out"])
            torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
            assert output.reward.item() == pytest.approx(recorded[prefix + "reward"], abs=1e-5)
            assert output.state == [recorded[prefix + "state"]]
            assert output.next_state == [recorded[prefix + "next_state"]]


@pytest.mark.parametrize("make", [IntegratedAttention.original, IntegratedAttention])
@torch.no_grad()
def test_initial_weights_are_the_originals(golden: Golden, make: Callable[..., Any]):
    recorded = golden("initial_weights")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 48, 32, generator=generator)
    statistics: dict[str, list[list[float]]] = {}
    spans, norms = [], []
    for _ in range(100):
        layer = make(48, 32, 4, generator=generator)
        spans.append(layer.forward_with_action(x).span_scale[0])
        norms.append(layer.attn_global(layer.ln_b(x))[0].std())
        for name, weights in layer.state_dict().items():
            row = [weights.mean(), weights.std(correction=0), weights.abs().max()]
            statistics.setdefault(name, []).append(row)
    for name, rows in statistics.items():
        mean, std, largest = torch.tensor(rows).mean(0).tolist()
        expected = recorded[f"param.{name}"]
        assert std == pytest.approx(expected[1], rel=0.06, abs=0.001), name
        assert largest == pytest.approx(expected[2], rel=0.2), name
        assert mean == pytest.approx(expected[0], abs=0.2 * expected[2]), name
    # Before any training, the prediction hardly differs from one half.
    assert torch.stack(spans).sub(0.5).abs().max() < 0.005
    assert torch.stack(norms).mean() == pytest.approx(recorded["global_output_std_mean"], rel=1)


def test_initial_weights_are_those_of_the_default():
    generator = torch.Generator().manual_seed(0)
    default = IntegratedAttention(30, 16, 2, generator=generator).state_dict()
    original = make_original().state_dict()
    assert original.keys() - default.keys() == {"attn_local.span_scale"}
    assert all(torch.equal(original[name], each) for name, each in default.items())


def test_refusals(x: Tensor):
    with pytest.raises(ValueError, match=r"fixes 'causal' .*_causal"):
        make_original("causal")
    with pytest.raises(ValueError, match=r"fixes 'temprature' .*temperature"):
        make_original(["cut", "temprature"])
    for wrong in (1, None, [1]):
        with pytest.raises(TypeError, match="fixes must be names"):
            make_original(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="lengths"):
        make_original()(x, lengths=torch.tensor([20]))
    with pytest.raises(NotImplementedError, match="attention weights"):
        make_original().attention_weights(x)
