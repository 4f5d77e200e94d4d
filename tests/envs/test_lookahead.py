"""Lookahead agrees with the steps that follow."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import IntegratedAttention, SpanConfig
from spangym.envs import (
    ENVIRONMENTS,
    Reward,
    RewardContext,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)

TINY: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "cost_coef": 0.7}
NAME = "spangym/SpanControl-v0"
VARIANTS = pytest.mark.parametrize(
    "variant",
    [
        {},
        {"control_kv_cache": True},
        {"reward": "attention"},
        {"observation_time": "previous", "autocorrelation": True},
        {"layer_variant": "original"},
        {
            "layer_variant": "original",
            "fixes": "cut",
            "reward": "attention",
            "control_kv_cache": True,
        },
        {"layer_class": "focus", "layer_variant": "original"},
        {"layer_class": "hybrid"},
        {"layer_class": "hybrid", "layer_variant": "original"},
    ],
    ids=lambda each: "-".join(each) or "plain",
)


def after(env: SpanControlEnv, actions: Any) -> float:
    """What the actions earn, tried on a fork."""
    fork = env.fork()
    return sum(fork.step(action)[1] for action in actions)


@VARIANTS
def test_peek_is_what_each_action_earns(variant: dict[str, Any]):
    env = SpanControlEnv(**TINY, **variant)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    seen = env.peek()
    assert seen.dtype == np.float32
    assert seen.tolist() == [after(env, [action]) for action in env.core.all_actions]


KINDS = pytest.mark.parametrize(
    "kind",
    [{}, {"layer_variant": "original"}, {"layer_variant": "original", "fixes": "local_causal"}],
    ids=lambda each: "-".join(each.values()) or "default",
)


@KINDS
@pytest.mark.parametrize("layers", [1, 2])
def test_lookahead_is_the_best_of_all_plans(layers: int, kind: dict[str, Any]):
    env = SpanControlEnv(**TINY, num_layers=layers, **kind)
    env.reset(seed=1)
    for _ in range(layers):
        env.step(5)
    best = [
        max(after(env, [first, *rest]) for rest in itertools.product(range(10), repeat=layers - 1))
        for first in range(10)
    ]
    np.testing.assert_allclose(env.lookahead(), best, atol=1e-6)


def test_in_mid_chunk_only_what_is_left_is_looked_at():
    env = SpanControlEnv(**TINY)
    env.reset(seed=1)
    env.step(3)
    np.testing.assert_array_equal(env.lookahead(), env.peek())


class PaidLast(Reward):
    """Spans pay at once; the harm that they do shows in the last layer's output."""

    components = ("size",)

    def __call__(self, context: RewardContext) -> Tensor:
        last = context.layer + 1 == context.num_layers
        size = context.layer_output.output.square().sum((1, 2))
        return (size if last else 1e-6 * context.layer_output.span_scale)[:, None]


class Erratic(PaidLast):
    """The last layer's reward at full span says nothing about that at other spans."""

    def __call__(self, context: RewardContext) -> Tensor:
        return (1e4 * super().__call__(context)).sin()


def exact_lookahead(env: SpanControlEnv) -> list[float]:
    """The best return of each first action over all plans of three layers."""
    best, actions = [], env.core.all_actions
    for first in actions:
        forks = [env.fork() for _ in actions]
        best.append(
            max(
                fork.step(first)[1] + fork.step(second)[1] + fork.peek().max()
                for second, fork in enumerate(forks)
            )
        )
    return best


def test_a_wide_beam_is_exact_and_a_narrow_one_a_bound_from_below():
    env = SpanControlEnv(**TINY, num_layers=3, num_actions=5, reward=Erratic())
    misses = 0
    for seed in range(1, 4):
        env.reset(seed=seed)
        exact = exact_lookahead(env)
        np.testing.assert_allclose(env.lookahead(beam=5), exact, atol=1e-5)
        narrow = env.lookahead(beam=1)
        assert (narrow <= np.array(exact) + 1e-5).all()
        misses += (narrow < np.array(exact) - 1e-5).sum()
    assert misses
    with pytest.raises(ValueError, match=r"beam .*at least 1"):
        env.lookahead(beam=0)


def test_a_narrow_beam_finds_plans_that_only_the_last_layer_pays():
    env = SpanControlEnv(**TINY, num_layers=3, num_actions=5, reward=PaidLast())
    env.reset(seed=1)
    np.testing.assert_allclose(env.lookahead(beam=1), exact_lookahead(env), rtol=1e-6)


def test_following_it_earns_what_it_promised():
    env = SpanControlEnv(**TINY)
    env.reset(seed=2)
    for _ in range(2):
        promised = env.lookahead().max()
        earned = 0.0
        for _ in range(2):
            earned += env.step(int(env.lookahead().argmax()))[1]
        assert earned == pytest.approx(promised, abs=1e-6)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"control_kv_cache": True},
        {"layer_variant": "original"},
        {"layer_variant": "original", "fixes": "cut"},
    ],
    ids=lambda each: "-".join(each) or "plain",
)
def test_coverages_are_those_that_each_action_leads_to(variant: dict[str, Any]):
    """Beside the reward that is made from them, of which they are a part."""
    env = SpanControlEnv(**TINY, reward="attention", **variant)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    seen = env.action_coverages()
    assert seen.dtype == np.float32
    led_to = [
        env.fork().step(action)[4]["reward_components"]["coverage"]
        for action in env.core.all_actions
    ]
    np.testing.assert_array_equal(seen, np.array(led_to, np.float32))


def test_longer_spans_cover_more():
    """Where a query's last pass is its first, a longer interval holds the shorter one's weight."""
    arguments = {**ENVIRONMENTS["spangym/LongRange-v0"], "chunks_per_episode": 1}
    envs = SpanControlVectorEnv(3, **arguments)
    envs.reset(seed=2)
    for _ in range(2):
        seen = envs.action_coverages()
        assert (np.diff(seen, axis=1) > 0).all()
        np.testing.assert_array_equal(seen[:, 0], 0)
        np.testing.assert_allclose(seen[:, 9], 1, atol=1e-5)
        envs.step(np.full(3, 5))


def absolute_layers(*predictions: float) -> list[IntegratedAttention]:
    """Layers that predict those scales, whatever they read."""
    layers = [
        IntegratedAttention(
            16, 8, 2, SpanConfig(win_size=8, max_span=16, max_dist=16, action_scale="absolute")
        ).eval()
        for _ in predictions
    ]
    for layer, prediction in zip(layers, predictions, strict=True):
        layer.span_pred.linear.weight.data.zero_()
        layer.span_pred.linear.bias.data.fill_(np.log(prediction / (1 - prediction)))
    return layers


def test_predicted_actions_are_the_nearest():
    envs = SpanControlVectorEnv(3, layers=absolute_layers(0.3, 0.8), chunks_per_episode=2)
    envs.reset(seed=0)
    seen = []
    for _ in range(4):
        predicted = envs.predictor_action()
        assert (predicted.dtype, predicted.shape) == (np.int64, (3,))
        seen.append(predicted.tolist())
        envs.step(predicted)
    assert seen == [[3, 3, 3], [7, 7, 7]] * 2


@pytest.mark.parametrize("layer", ["default", "original"])
def test_predicted_actions_are_of_each_env(layer: str):
    """Where actions are shares of the longest span, each environment's prediction is its own."""
    arguments = {**TINY, "layer_variant": layer, "action_scale": "absolute"}
    envs = SpanControlVectorEnv(3, **arguments)
    envs.reset(seed=0)
    own_layer, hidden = envs.core.layers[0], envs.core.state.hidden
    linear = own_layer.span_pred.linear
    with torch.no_grad():
        # Predictions that differ.
        linear.weight.mul_(1000)
        linear.bias.sub_(own_layer.forward_with_action(hidden[:1]).span_scale.logit())
        own = [
            own_layer.forward_with_action(hidden[env_index : env_index + 1]).span_scale.item()
            for env_index in range(3)
        ]
    assert max(own) - min(own) > 0.2
    assert envs.predictor_action().tolist() == [round(9 * each) for each in own]


@pytest.mark.parametrize("refresh", [False, True])
def test_shares_of_the_prediction_are_predicted_to_be_whole(refresh: bool):
    env = SpanControlEnv(**TINY, control_kv_cache=refresh)
    env.reset(seed=0)
    assert env.predictor_action() == 9


def test_predicted_actions_follow_the_layer():
    """Of trained layers, beside the scale that a layer takes when nobody decides."""
    arguments = {**ENVIRONMENTS["spangym/LongRange-v0"], "chunks_per_episode": 3}
    env = SpanControlEnv(**arguments)
    env.reset(seed=1)
    for action in (9, 2, 0, 5, 7):
        state, index = env.core.state, env.core.layer
        own = env.core.layers[index].step(state.hidden, cache=state.caches[index])
        assert abs(env.predictor_action() / 9 - own.span_scale.item()) <= 0.5 / 9 + 1e-6
        env.step(action)


@KINDS
def test_of_many_envs_each_is_as_alone(kind: dict[str, Any]):
    tiny = {**TINY, **kind}
    envs, stable = SpanControlVectorEnv(6, **tiny), SB3SpanControlVecEnv(make_config(NAME, tiny), 6)
    envs.reset(seed=4)
    stable.seed(4)
    stable.reset()
    envs.step(np.arange(6))
    stable.step(np.arange(6))
    asked = (
        "lookahead",
        "peek",
        "action_coverages",
        "predictor_action",
        "output_observations",
        "content_type",
    )
    answers = {name: getattr(envs, name)() for name in asked}
    for name in ("lookahead", "peek", "action_coverages"):
        assert answers[name].shape == (6, 10)
    for name, answer in answers.items():
        np.testing.assert_array_equal(getattr(stable, name)(), answer)
    for env_index in range(6):
        alone = SpanControlEnv(**tiny)
        alone.reset(seed=4 + env_index)
        alone.step(env_index)
        for name, answer in answers.items():
            np.testing.assert_array_equal(answer[env_index], getattr(alone, name)())


def test_looking_changes_nothing():
    env, other = SpanControlEnv(**TINY), SpanControlEnv(**TINY)
    env.reset(seed=3)
    other.reset(seed=3)
    for name in (
        "peek",
        "lookahead",
        "action_coverages",
        "predictor_action",
        "content_type",
    ):
        getattr(env, name)()
    for action in (1, 9, 4):
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]
