"""All interfaces of the environment give the same results."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from spangym.attention.features import autocorrelation_buckets, discretize, tuple_hash_id
from spangym.attention.observation_spec import ENCODINGS
from spangym.envs import (
    ENVIRONMENTS,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
)
from tests.factories import SMALL_ENV_KWARGS, small_env_kwargs

MIXED = "spangym/SpanBudget-v0"
NAME = "spangym/SpanControl-v0"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in ENVIRONMENTS),
        (NAME, {"layer_variant": "original", "observation_time": "previous"}),
        (
            NAME,
            {
                "layer_variant": "original",
                "fixes": ["cut", "temperature"],
                "reward": "attention",
                "cost_coef": 0.5,
            },
        ),
        *(
            (NAME, {"layer_class": layer_class, "layer_variant": variant, "win_size": 8})
            for layer_class in ("focus", "hybrid")
            for variant in ("default", "original")
        ),
        (NAME, {"action_scale": "absolute"}),
        (NAME, {"global_path": "pooled", "pool": 5, "reward": "attention"}),
        (NAME, {"global_path": "none", "layer_class": "focus"}),
    ],
)
def test_envs_are_scalar_environments_bit_exactly(name: str, more: dict[str, Any]):
    """Three environments of both vector interfaces beside three scalar ones, over two episodes."""
    arguments = {**small_env_kwargs(name), "encoding": "features", "autocorrelation": True, **more}
    scalars = [gym.make(name, **arguments) for _ in range(3)]
    vector = gym.make_vec(name, 3, **arguments)
    stable = SB3SpanControlVecEnv(make_config(name, arguments), 3)
    assert isinstance(vector, SpanControlVectorEnv)
    stable.seed(11)
    firsts = [env.reset(seed=11 + env_index) for env_index, env in enumerate(scalars)]
    expected = np.stack([observation for observation, _ in firsts])
    observations, infos = vector.reset(seed=11)
    np.testing.assert_array_equal(observations, expected)
    np.testing.assert_array_equal(stable.reset(), expected)
    assert infos["content_type"].tolist() == [info["content_type"] for _, info in firsts]
    assert [info["content_type"] for info in stable.reset_infos] == infos["content_type"].tolist()
    generator = np.random.default_rng(0)
    ends = 0
    for _ in range(2 * vector.core.episode_length + 1):
        actions = generator.integers(10, size=3)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        seen, earned, dones, env_infos = stable.step(actions)
        assert not terminations.any()
        for env_index, env in enumerate(scalars):
            observation, reward, _, truncated, info = env.step(actions[env_index])
            assert rewards[env_index] == earned[env_index] == reward
            assert truncations[env_index] == dones[env_index] == truncated
            assert env_infos[env_index]["TimeLimit.truncated"] == truncated
            assert {key: env_infos[env_index][key] for key in info} == info
            if truncated:
                ends += 1
                np.testing.assert_array_equal(infos["final_obs"][env_index], observation)
                np.testing.assert_array_equal(
                    env_infos[env_index]["terminal_observation"], observation
                )
                assert infos["final_info"]["span"][env_index] == info["span"]
                assert infos["_final_info"].all()
                observation, info = env.reset()
                assert infos["content_type"][env_index] == info["content_type"]
                assert stable.reset_infos[env_index] == info
            else:
                assert "final_obs" not in infos
                assert infos["qk_pairs"][env_index] == info["qk_pairs"]
                assert (
                    infos["reward_components"]["cost"][env_index]
                    == info["reward_components"]["cost"]
                )
            np.testing.assert_array_equal(observations[env_index], observation)
            np.testing.assert_array_equal(np.asarray(seen)[env_index], observation)
    assert ends == 6


def test_make_vec_uses_the_vector_env():
    envs = gym.make_vec("spangym/SpanControl-v0", 4, vectorization_mode="vector_entry_point")
    assert isinstance(envs.unwrapped, SpanControlVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.reset(seed=0)[0].shape == (4, 128)


def test_seeds_of_envs():
    envs = SpanControlVectorEnv(3, **SMALL_ENV_KWARGS)
    by_list, _ = envs.reset(seed=[7, 8, 9])
    by_number, _ = envs.reset(seed=np.int64(7))  # pyright: ignore[reportArgumentType]
    by_array, _ = envs.reset(seed=np.array([7, 8, 9]))  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(by_list, by_array)
    np.testing.assert_array_equal(by_list, by_number)
    envs.reset(seed=7)
    going_on, _ = envs.reset(seed=[None, 8, None])
    assert not np.array_equal(going_on[0], by_list[0])
    np.testing.assert_array_equal(going_on[1], by_list[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpanControlVectorEnv(0), "num_envs"),
        (lambda: SpanControlVectorEnv(2, render_mode="human"), "render_mode"),
        (
            lambda: SpanControlVectorEnv(2, **SMALL_ENV_KWARGS).reset(seed=[1]),
            "2 numbers",
        ),
        (
            lambda: SpanControlVectorEnv(2, **SMALL_ENV_KWARGS).reset(
                options={"reset_mask": np.array([True, False])}
            ),
            "reset_mask",
        ),
        (
            lambda: SpanControlVectorEnv(2, **SMALL_ENV_KWARGS).step(np.array([1, 2])),
            "call reset() first",
        ),
        (lambda: SpanControlEnv(**SMALL_ENV_KWARGS).peek(), "call reset() first"),
        (lambda: SpanControlEnv(**SMALL_ENV_KWARGS).content_type(), "call reset() first"),
        (lambda: SpanControlEnv(**SMALL_ENV_KWARGS).output_observations(), "call step() first"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        call()
    assert message in str(caught.value)


def test_content_types_are_of_the_chunk_that_comes():
    env = SpanControlEnv(**{**small_env_kwargs(MIXED), **ENVIRONMENTS[MIXED]})
    env.reset(seed=1)
    told, found = [], []
    for _ in range(6):
        told.append(env.content_type())
        found.append(env.step(0)[4]["content_type"])
    assert told == found
    assert len({*told}) > 1
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.content_type()


def test_content_types_of_many_envs_over_the_end_of_an_episode():
    env = SB3SpanControlVecEnv(make_config(MIXED, {"chunks_per_episode": 2}), 3)
    env.seed(1)
    env.reset()
    for _ in range(9):
        told = env.content_type()
        assert told == [info["content_type"] for info in env.step(np.zeros(3, int))[3]]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_output_observations_are_of_the_local_output(encoding: str):
    """Beside the layers run by hand, over the ends of episodes."""
    arguments = {
        **SMALL_ENV_KWARGS,
        "chunks_per_episode": 2,
        "include_layer_index": encoding != "state",
        "autocorrelation": True,
    }
    env = SB3SpanControlVecEnv(
        make_config("spangym/SpanControl-v0", {**arguments, "encoding": encoding}), 3
    )
    env.seed(5)
    env.reset()
    core = env.core
    for number in range(9):
        state, index, actions = core.state, core.layer, (np.arange(3) + number) % 10
        with torch.no_grad():
            outcome = core.layers[index].forward_with_action(
                state.hidden, torch.from_numpy(actions), cache=state.caches[index]
            )
        output, lags = outcome.local_output, autocorrelation_buckets(outcome.local_output, 9)
        numbers = torch.cat([output.mean(1), output.var(1, unbiased=False), lags], dim=-1)
        env.step(actions)
        seen = env.output_observations()
        assert len(seen) == 3
        expected = discretize(numbers).numpy()
        if encoding == "state":
            assert seen.tolist() == [tuple_hash_id(row) for row in expected.tolist()]
            continue
        if encoding == "features":
            np.testing.assert_allclose(seen[:, :-1], numbers, atol=1e-6)
        else:
            shown = seen[:, :-1] if encoding == "digits" else (seen[:, :-1] + 1) * 5
            np.testing.assert_allclose(shown, expected, atol=1e-5)
        assert (seen[:, -1] == (index if encoding == "digits" else 2 * index - 1)).all()


def test_output_observations_are_the_originals_next_state():
    env = SpanControlEnv(**SMALL_ENV_KWARGS, encoding="state")
    env.reset(seed=2)
    state = env.core.state
    with torch.no_grad():
        outcome = env.core.layers[0].forward_with_action(state.hidden, 7)
    env.step(7)
    assert [env.output_observations()] == outcome.next_state


def test_a_reset_within_an_episode_discards_the_output():
    env = SpanControlEnv(**SMALL_ENV_KWARGS)
    env.reset(seed=2)
    env.step(7)
    env.reset()
    with pytest.raises(RuntimeError, match=r"call step\(\) first"):
        env.output_observations()


INTERFACES = pytest.mark.parametrize(
    "interface",
    [
        lambda **arguments: SpanControlVectorEnv(3, **arguments),
        lambda **arguments: SB3SpanControlVecEnv(
            make_config("spangym/SpanControl-v0", arguments), 3
        ),
    ],
    ids=["gymnasium", "stable-baselines3"],
)


def start(envs: Any) -> None:
    if isinstance(envs, SB3SpanControlVecEnv):
        envs.seed(5)
        envs.reset()
    else:
        envs.reset(seed=5)


@INTERFACES
@pytest.mark.parametrize(
    "duplicate",
    [
        lambda envs: envs.fork(),
        copy.deepcopy,
        lambda envs: pickle.loads(pickle.dumps(envs)),
    ],
    ids=["fork", "deepcopy", "pickle"],
)
def test_copies_of_many_envs_continue_equally(interface: Any, duplicate: Any):
    envs = interface(**SMALL_ENV_KWARGS)
    start(envs)
    envs.step(np.array([1, 2, 3]))
    twin = duplicate(envs)
    for shift in range(8):
        actions = (np.arange(3) + shift) % 10
        assert data_equivalence(drop_times(envs.step(actions)), drop_times(twin.step(actions)))


@INTERFACES
def test_many_envs_are_restored_bit_exactly(interface: Any):
    envs, other = interface(**SMALL_ENV_KWARGS), interface(**SMALL_ENV_KWARGS)
    start(envs)
    envs.step(np.array([1, 2, 3]))
    kept = envs.state_dict()
    other.load_state_dict(kept)
    assert (other.lookahead() == envs.lookahead()).all()
    assert (other.output_observations() == envs.output_observations()).all()
    for shift in range(8):
        actions = (np.arange(3) + shift) % 10
        assert data_equivalence(drop_times(envs.step(actions)), drop_times(other.step(actions)))


def drop_times(step: tuple[Any, ...]) -> tuple[Any, ...]:
    """A step without the wall time that the Stable-Baselines3 interface always reports."""
    *rest, infos = step
    if isinstance(infos, list):
        infos = [{key: info[key] for key in info if key != "milliseconds"} for info in infos]
    return (*rest, infos)
