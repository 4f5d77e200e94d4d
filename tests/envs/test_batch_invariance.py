"""The result for an environment does not depend on the others, for every shape and number."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spangym.envs import (
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)
from spangym.envs.transition import is_batch_invariant
from tests.factories import NATIVE

NAME = "spangym/SpanControl-v0"
STEPS = 4


def compare_interfaces(num_envs: int, arguments: dict[str, Any], with_queries: bool = True) -> None:
    """Steps, with what lookahead and the spans' predictors say, in the three interfaces."""
    arguments = {"chunks_per_episode": 2, "encoding": "features", **arguments}
    scalars = [SpanControlEnv(**arguments) for _ in range(num_envs)]
    vector = SpanControlVectorEnv(num_envs, **arguments)
    stable = SB3SpanControlVecEnv(make_config(NAME, arguments), num_envs)
    stable.seed(3)
    firsts = np.stack([env.reset(seed=3 + index)[0] for index, env in enumerate(scalars)])
    np.testing.assert_array_equal(vector.reset(seed=3)[0], firsts)
    np.testing.assert_array_equal(stable.reset(), firsts)
    vector.action_space.seed(0)
    for step in range(STEPS):
        if with_queries and step == 1:
            peeked = np.stack([env.peek() for env in scalars])
            np.testing.assert_array_equal(vector.peek(), peeked)
            predicted = [env.predictor_action() for env in scalars]
            assert vector.predictor_action().tolist() == predicted
        actions = vector.action_space.sample()
        seen, rewards, _, _, infos = vector.step(actions)
        _, sb3_rewards, _, sb3_infos = stable.step(actions)
        outputs = vector.output_observations()
        for index, env in enumerate(scalars):
            observation, reward, *_, info = env.step(actions[index])
            assert rewards[index] == sb3_rewards[index] == reward
            last = infos["final_obs"][index] if step + 1 == STEPS else seen[index]
            np.testing.assert_array_equal(last, observation)
            np.testing.assert_array_equal(outputs[index], env.output_observations())
            assert {key: sb3_infos[index][key] for key in info} == info


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3, 5]))
    win_size = draw(st.integers(1, 70))
    max_span = win_size + draw(st.integers(0, 70))
    return {
        "heads": heads,
        "dims": heads * draw(st.integers(-(-4 // heads), 24 // heads)),
        "ctx": draw(st.integers(1, 40)),
        "win_size": win_size,
        "max_span": max_span,
        "max_dist": max_span,
        "layer_variant": draw(st.sampled_from(["default", "original"])),
        "reward": draw(st.sampled_from(["quality", "attention"])),
        "autocorrelation": draw(st.booleans()),
        "control_kv_cache": draw(st.booleans()),
        "observation_time": draw(st.sampled_from(["current", "previous"])),
    }


ODD = {"heads": 1, "win_size": 64, "max_span": 81, "max_dist": 81}


@given(arguments=shapes())
@example({**ODD, "dims": 5, "ctx": 4, "autocorrelation": True, "action_scale": "absolute"})
@example({**ODD, "dims": 8, "ctx": 3, "reward": "attention", "action_scale": "absolute"})
@example({"ctx": 129, "dims": 35, "heads": 5, "win_size": 1, "max_span": 2})
@settings(max_examples=6)
def test_envs_of_every_shape_are_scalar_environments(arguments: dict[str, Any]):
    compare_interfaces(3, arguments)


def test_forty_envs_are_scalar_environments():
    compare_interfaces(40, {"dims": 16, "heads": 2, "ctx": 16}, with_queries=False)


@pytest.mark.parametrize("name", NATIVE)
def test_shipped_shapes_are_run_in_one_batch(name: str):
    envs = gym.make_vec(name, 5, chunks_per_episode=1)
    assert isinstance(envs, SpanControlVectorEnv)
    calls = []
    envs.core.layers[0].attn_local.register_forward_hook(lambda *_: calls.append(1))
    envs.reset(seed=0)
    calls.clear()
    envs.step(envs.action_space.sample())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("ctx", "dims", "expected"),
    [(256, 64, True), (16, 16, True), (129, 64, False), (128, 35, False), (512, 64, False)],
)
def test_shapes_in_a_batch(ctx: int, dims: int, expected: bool):
    assert is_batch_invariant(ctx, dims) == expected
