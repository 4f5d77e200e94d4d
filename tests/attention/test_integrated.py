from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import (
    AdaptiveUpdateAttention,
    IntegratedAttention,
    Predictor,
    SlidingWindowAttention,
    SpanConfig,
    SpanGeometry,
)
from spangym.attention.features import discretize, quality, token_moments, tuple_hash_id
from spangym.attention.kernels import reference
from spangym.attention.temperature import TemperatureLaw

from ..conftest import Golden


@pytest.fixture
def layer(generator: torch.Generator) -> IntegratedAttention:
    return IntegratedAttention(
        96,
        32,
        4,
        SpanConfig(win_size=16, max_span=24, max_dist=48, temp_scale=0.3),
        generator=generator,
    ).eval()


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 70, 32, generator=generator)


def test_predictor_reproduces_the_original(golden: Golden):
    recorded = golden("predictor")
    predictor = Predictor(24)
    predictor.linear.load_state_dict(
        {name: torch.from_numpy(recorded[name]) for name in ("weight", "bias")}
    )
    with torch.no_grad():
        got = predictor(torch.from_numpy(recorded["x"]))
    np.testing.assert_allclose(got, recorded["scale"], rtol=1e-5)


def test_parameters_have_the_originals_names(golden: Golden, generator: torch.Generator):
    recorded = golden("integrated_sdpa")
    prefix = "case0.param."
    names = {name.removeprefix(prefix) for name in recorded if name.startswith(prefix)}
    # The original holds one more, a span scale that nothing reads.
    assert names - {"attn_local.span_scale"} == set(
        IntegratedAttention(40, 16, 2, generator=generator).state_dict()
    )


def test_local_path_step_by_step(generator: torch.Generator):
    """Iterative focus in the words of the definition: one lane, window by window."""
    local = SlidingWindowAttention(
        8, 2, SpanConfig(win_size=12, max_span=20, max_dist=20, temp_scale=0.4)
    )
    x = torch.randn(1, 50, 8, generator=generator, dtype=torch.float64) * 0.3
    scale = torch.tensor([0.6], dtype=torch.float64)
    got = local(x, scale)
    window, span = int(12 * 0.6), int(20 * 0.6)
    temperature = 1 + 0.4 * (1 - 0.6)
    heads = x[0].view(50, 2, 4).transpose(0, 1)
    expected, visited, slowest = torch.zeros_like(heads), 0, 0
    for start in range(0, 50, window):
        keys = heads[:, max(0, start - span + window) : start + span]
        q = heads[:, start : start + window]
        before = torch.zeros_like(q)
        for step in range(1, 11):
            out = (q @ keys.transpose(1, 2) / (4**0.5 * temperature)).softmax(-1) @ keys
            visited += q.shape[1] * keys.shape[1]
            slowest = max(slowest, step)
            change = (out - before).abs().mean()
            before = out
            if change < 1e-4 + 0.1 * change:
                break
            q = q + out
        expected[:, start : start + window] = before
    torch.testing.assert_close(got.output[0], expected.transpose(0, 1).reshape(50, 8))
    assert got.qk_pairs.item() == visited
    assert got.num_refinement_steps.item() == slowest


def test_converged_windows_stop_and_cost_nothing_more():
    local = SlidingWindowAttention(4, 1, SpanConfig(win_size=4, max_span=4, max_dist=4))
    x = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(1))
    x[:, 4:] = 0.0  # A window of zeros answers zero at once.
    got = local(x, torch.ones(1))
    assert got.num_refinement_steps.item() > 1
    assert got.qk_pairs.item() == 16 * got.num_refinement_steps.item() + 16


@pytest.mark.parametrize("temperature_law", ["longer", "shorter"])
def test_temperature_laws(temperature_law: TemperatureLaw):
    options = SpanConfig(
        win_size=4, max_span=4, max_dist=4, temp_scale=0.2, temperature_law=temperature_law
    )
    local = SlidingWindowAttention(4, 1, options)
    got = local.temperature(torch.tensor([0.0, 0.5, 1.0]))
    expected = [1.2, 1.1, 1.0] if temperature_law == "longer" else [0.5, 0.6, 0.7]
    torch.testing.assert_close(got, torch.tensor(expected))


def test_both_kernels_agree_in_the_layer(
    layer: IntegratedAttention, x: Tensor, monkeypatch: pytest.MonkeyPatch
):
    action = torch.tensor([2, 5, 9])
    fast = layer.forward_with_action(x, action)
    monkeypatch.setattr(
        "spangym.attention.layers.adaptive_span.select_kernel", lambda _: reference.attend
    )
    plain = layer.forward_with_action(x, action)
    torch.testing.assert_close(fast.output, plain.output, rtol=1e-4, atol=1e-5)
    assert torch.equal(fast.qk_pairs, plain.qk_pairs)


def test_action_scales_the_prediction(layer: IntegratedAttention, x: Tensor):
    predicted = layer.forward_with_action(x).span_scale
    for action in range(10):
        outcome = layer.forward_with_action(x, action)
        torch.testing.assert_close(outcome.span_scale, predicted * action / 9)
        spans = SpanGeometry.from_scale(outcome.span_scale, win_size=16, max_span=24, max_dist=48)
        assert torch.equal(outcome.window, spans.window)
        assert torch.equal(outcome.span, spans.span)
    assert layer.forward_with_action(x, 0).local_output.abs().max() == 0
    assert layer.forward_with_action(x, 0).qk_pairs.tolist() == [0, 0, 0]


def test_a_lane_never_depends_on_its_neighbors(layer: IntegratedAttention, x: Tensor):
    action = torch.tensor([1, 6, 9])
    batched = layer.forward_with_action(x, action)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = layer.forward_with_action(x[one], action[one])
        for name in ("output", "local_output", "span_scale", "qk_pairs", "num_refinement_steps"):
            assert torch.equal(getattr(batched, name)[one], getattr(alone, name)), name


def test_gradients_reach_both_paths(layer: IntegratedAttention, x: Tensor):
    x.requires_grad_()
    layer.forward_with_action(x, 9).output.square().mean().backward()
    # The span and the refreshing of keys are decisions, which pass no gradient on.
    undifferentiable = ("span_pred", "update_predictor")
    for name, parameter in layer.named_parameters():
        if any(each in name for each in undifferentiable):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # A bias of the keys shifts all scores of a query alike: its gradient is zero.
            if name != "attn_global.key_module.proj.bias":
                assert parameter.grad.abs().max() > 0, name
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_gradient_of_the_local_path_is_right(generator: torch.Generator):
    local = SlidingWindowAttention(4, 2, SpanConfig(win_size=5, max_span=8, max_dist=8))
    x = torch.randn(1, 12, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: local(x, torch.tensor([0.9])).output, (x,))


class RecordingController:
    """Plays a fixed action and keeps what it is told."""

    def __init__(self, action: int) -> None:
        self.action = action
        self.seen: list[int] = []
        self.updates: list[tuple[int, int, float, int]] = []

    def choose_action(self, state: int) -> int:
        self.seen.append(state)
        return self.action

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.updates.append((state, action, reward, next_state))


def test_refiner_controls_the_layer_and_learns_in_train_mode_only(
    layer: IntegratedAttention, x: Tensor
):
    controller = RecordingController(7)
    layer.refiner = controller
    output = layer(x)
    expected = layer.forward_with_action(x, 7)
    assert torch.equal(output, expected.output)
    states = [tuple_hash_id(each) for each in discretize(layer.obs_features(x)).tolist()]
    assert controller.seen == states
    assert controller.updates == []
    layer.train()(x)
    after = [
        tuple_hash_id(each) for each in discretize(token_moments(expected.local_output)).tolist()
    ]
    rewards = quality(expected.local_output).quality.tolist()
    assert controller.updates == list(zip(states, [7] * 3, rewards, after, strict=True))


def test_a_refiner_that_chooses_no_action_is_an_error(layer: IntegratedAttention, x: Tensor):
    layer.refiner = RecordingController(10)
    with pytest.raises(ValueError, match=r"refiner must choose actions in 0\.\.9"):
        layer(x)


def test_same_generator_same_weights():
    one, other = (
        IntegratedAttention(8, 16, 2, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    weight = one.attn_global.query_module.proj.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert one.attn_global.query_module.proj.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"head": 5}, "head must divide dims"),
        ({"max_span": 100}, "max_span must be at least win_size"),
        ({"max_dist": 100}, "max_dist must be at least win_size"),
        ({"ctx": 0}, "ctx must be at least 1"),
        ({"win_size": 0}, "win_size must be at least 1"),
        ({"temp_scale": -1.0}, "temp_scale must be at least 0"),
        ({"dims": 3, "head": 1}, "dims must be at least 4"),
    ],
)
def test_bad_configuration_names_argument_and_rule(change: dict[str, Any], rule: str):
    good: dict[str, Any] = {"ctx": 64, "dims": 32, "head": 4}
    with pytest.raises(ValueError, match=rule):
        sizes = {name: change.pop(name, value) for name, value in good.items()}
        IntegratedAttention(**sizes, config=SpanConfig(**change))


@pytest.mark.parametrize("action", [-1, 10, 3.5, torch.zeros(2), torch.zeros(3, 1)])
def test_bad_action_is_an_error(layer: IntegratedAttention, x: Tensor, action: Any):
    with pytest.raises(ValueError, match="action"):
        layer.forward_with_action(x, action)


@pytest.mark.parametrize("shape", [(0, 10, 32), (1, 97, 32), (1, 0, 32), (1, 10, 31), (10, 32)])
def test_bad_input_names_its_shape(layer: IntegratedAttention, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"x has shape .* 1 to 96 tokens"):
        layer(torch.zeros(shape))


class TestCache:
    @pytest.fixture
    def attention(self, generator: torch.Generator) -> AdaptiveUpdateAttention:
        layer = IntegratedAttention(64, 16, 4, generator=generator)
        return layer.attn_global.eval()

    def test_first_pass_computes_everything(
        self, attention: AdaptiveUpdateAttention, generator: torch.Generator
    ):
        x = torch.randn(3, 20, 16, generator=generator)
        _, cache = attention(x)
        assert cache.recomputed_keys.all()
        assert torch.equal(cache.keys, attention.key_module(x))
        assert not cache.keys.requires_grad

    def test_reuses_what_the_predictors_say(
        self, attention: AdaptiveUpdateAttention, generator: torch.Generator
    ):
        # Lanes far enough apart that the predictors decide differently.
        first, second = torch.randn(2, 12, 1, 16, generator=generator).expand(2, 12, 20, 16) * 3
        _, cache = attention(first)
        _, cache = attention(second, cache=cache)
        assert set(cache.recomputed_keys.tolist()) == {True, False}
        for lane, anew in enumerate(cache.recomputed_keys.tolist()):
            source = second if anew else first
            # A projection of one lane may round otherwise than one of many.
            torch.testing.assert_close(cache.keys[lane], attention.key_module(source)[lane])

    def test_another_shape_is_an_error(self, attention: AdaptiveUpdateAttention):
        _, cache = attention(torch.zeros(2, 20, 16))
        with pytest.raises(ValueError, match="without a cache"):
            attention(torch.zeros(2, 21, 16), cache=cache)

    def test_reproduces_the_originals_decisions(self, golden: Golden):
        recorded = golden("adaptive_update")
        attention = AdaptiveUpdateAttention(16, 4).eval()
        prefix = "param."
        attention.load_state_dict(
            {
                name.removeprefix(prefix): torch.from_numpy(recorded[name])
                for name in recorded
                if name.startswith(prefix)
            }
        )
        with torch.no_grad():
            _, cache = attention(torch.from_numpy(recorded["x0"]))
            for step in range(1, 8):
                _, cache = attention(torch.from_numpy(recorded[f"x{step}"]), cache=cache)
                expected = recorded[f"update_key{step}"][:, 0].tolist()
                assert cache.recomputed_keys.tolist() == expected
                expected = recorded[f"update_value{step}"][:, 0].tolist()
                assert cache.recomputed_values.tolist() == expected
                np.testing.assert_allclose(cache.values, recorded[f"value{step}"], atol=1e-5)
