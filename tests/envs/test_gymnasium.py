"""Keywords, specifications and wrappers of Gymnasium and Stable-Baselines3 apply."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers
from stable_baselines3.common.vec_env import VecMonitor

from spangym.envs import (
    ENVIRONMENTS,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    check_vector_env,
    make_config,
)
from spangym.envs.data.dataset import NoiseDataset
from spangym.envs.env_config import EnvComponents, parse_env_kwargs
from spangym.envs.registration import DESCRIPTIONS
from tests.factories import SMALL_ENV_KWARGS, make_layer, small_env_kwargs

NAME = "spangym/SpanControl-v0"
SMALL = {**SMALL_ENV_KWARGS, "encoding": "box"}
EPISODE = SMALL["chunks_per_episode"] * 2
IDS = pytest.mark.parametrize("name", ENVIRONMENTS)


def test_each_id_has_a_description_of_one_line():
    assert [*DESCRIPTIONS] == [*ENVIRONMENTS]
    assert all(text and len(text) <= 100 and "\n" not in text for text in DESCRIPTIONS.values())


def episode_steps(env: gym.Env[Any, Any]) -> int:
    """Steps of an episode."""
    env.reset(seed=0)
    for step in range(1, 100):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            return step
    raise AssertionError("the episode does not end")


@IDS
@pytest.mark.parametrize("limit", [None, 3, 1000, -1])
def test_episodes_have_the_steps_of_the_specification(name: str, limit: int | None):
    arguments = {**small_env_kwargs(name), "max_episode_steps": limit}
    full = make_config(name, small_env_kwargs(name)).episode_steps
    env = gym.make(name, **arguments)
    assert env.spec is not None
    assert env.spec.max_episode_steps == (full if limit in (None, -1) else limit)
    assert episode_steps(env) == (3 if limit == 3 else full)
    envs = gym.make_vec(name, 2, **arguments)
    assert envs.spec is not None
    assert envs.spec.max_episode_steps == (3 if limit == 3 else full)
    envs.reset(seed=0)
    ends = [envs.step(envs.action_space.sample())[3].tolist() for _ in range(2 * full)]
    steps = 3 if limit == 3 else full
    assert ends == [[step % steps == 0] * 2 for step in range(1, 2 * full + 1)]


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", *list(AutoresetMode)[:2]])
@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_vector_environments_of_both_modes_equal_the_scalar_one(
    mode: str | AutoresetMode, limit: int | None, render_mode: str | None
):
    arguments = {**SMALL, "max_episode_steps": limit}
    envs = gym.make_vec(NAME, 3, autoreset_mode=mode, render_mode=render_mode, **arguments)
    assert envs.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert SpanControlVectorEnv.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    check_vector_env(envs, lambda: gym.make(NAME, **arguments), steps=3 * EPISODE)
    scalar = gym.make(NAME, render_mode=render_mode, **arguments)
    scalar.reset(seed=0)
    envs.reset(seed=0)
    scalar.step(3)
    envs.step(np.array([3, 4, 5]))
    frames, expected = envs.render(), scalar.render()
    if render_mode is None:
        assert frames is expected is None
    else:
        assert frames is not None
        assert len(frames) == 3
        assert np.array_equal(frames[0], expected)  # pyright: ignore[reportArgumentType]


def test_next_step_ignores_the_actions_after_an_end():
    envs = SpanControlVectorEnv(2, autoreset_mode="NextStep", **SMALL)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        envs.step(np.array([1, 2]))
    envs.reset(seed=0)
    for _ in range(EPISODE):
        envs.step(np.array([1, 2]))
    saved, twin = envs.state_dict(), envs.fork()
    step = envs.step(np.array([99, -1]))
    assert data_equivalence(step, twin.step(np.array([0, 0])), exact=True)
    _, rewards, terminations, truncations, infos = step
    assert not rewards.any()
    assert not terminations.any()
    assert not truncations.any()
    assert infos.keys() == {"content_type", "_content_type"}
    other = SpanControlVectorEnv(2, autoreset_mode="NextStep", **SMALL)
    other.load_state_dict(saved)
    assert data_equivalence(other.step(np.array([5, 5])), step, exact=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"autoreset_mode": "Disabled"}, "autoreset_mode must be 'SameStep' or 'NextStep'"),
        ({"autoreset_mode": "same"}, "got 'same'"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"max_episode_steps": 2.5}, "max_episode_steps"),
        ({"render_mode": "human"}, "render_mode must be None, ansi or rgb_array"),
    ],
)
def test_wrong_keywords_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        gym.make_vec(NAME, 2, **SMALL, **arguments)


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("vector_entry_point", {}),
        ("sync", {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}),
        ("sync", {"wrappers": [wrappers.FlattenObservation]}),
    ],
)
def test_ways_of_vectorization_give_the_same(mode: str, more: dict[str, Any]):
    envs = gym.make_vec(NAME, 2, vectorization_mode=mode, **SMALL, **more)
    plain = SpanControlVectorEnv(2, **SMALL)
    np.testing.assert_array_equal(envs.reset(seed=4)[0], plain.reset(seed=4)[0])
    actions = np.array([8, 2])
    for one, other in zip(envs.step(actions)[:4], plain.step(actions)[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("checked", [True, False])
def test_the_checker_is_an_option(checked: bool):
    env: Any = gym.make(NAME, disable_env_checker=not checked, **SMALL)
    layers = []
    while isinstance(env, gym.Wrapper):
        layers.append(type(env))
        env = env.env
    assert (wrappers.PassiveEnvChecker in layers) == checked


@IDS
def test_specifications_make_the_same_environment(name: str):
    env = gym.make(name, **small_env_kwargs(name))
    assert env.spec is not None
    stored = EnvSpec.from_json(env.spec.to_json())
    config = make_config(name, small_env_kwargs(name))
    expected = env.reset(seed=3)
    for spec in (env.spec, stored, SB3SpanControlVecEnv(config, 2).spec):
        again = gym.make(spec)
        assert spec.id == name
        assert isinstance(again.unwrapped, SpanControlEnv)
        assert again.unwrapped.config == config
        assert again.spec is not None
        assert again.spec.max_episode_steps == env.spec.max_episode_steps
        assert data_equivalence(again.reset(seed=3), expected, exact=True)
    envs = gym.make_vec(name, 2, autoreset_mode="NextStep", **small_env_kwargs(name))
    assert envs.spec is not None
    twin = gym.make_vec(envs.spec)
    assert twin.metadata == envs.metadata
    assert data_equivalence(twin.reset(seed=3), envs.reset(seed=3), exact=True)


@pytest.mark.parametrize(
    "arguments", [{"layers": [make_layer()], "ctx": 32}, {"dataset": NoiseDataset()}]
)
def test_a_specification_holds_objects_of_the_users_own(arguments: dict[str, Any]):
    config, components = parse_env_kwargs(arguments)
    spec = SB3SpanControlVecEnv(config, 2, components).spec
    env = gym.make(spec).unwrapped
    assert isinstance(env, SpanControlEnv)
    assert env.config == config


def test_vec_monitor_names_the_id(tmp_path: Path):
    env = SB3SpanControlVecEnv(make_config("SpanBudget-v0", {}), 1, EnvComponents())
    VecMonitor(env, str(tmp_path / "log")).close()
    header = (tmp_path / "log.monitor.csv").read_text("utf-8").splitlines()[0]
    assert json.loads(header.removeprefix("#"))["env_id"] == "spangym/SpanBudget-v0"


MIRROR: Any = lambda action: 9 - action  # noqa: E731
BOX = spaces.Box(-2, 2, (32,), np.float32)
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "DelayObservation": lambda env: wrappers.DelayObservation(env, 2),
    "DtypeObservation": lambda env: wrappers.DtypeObservation(env, np.float64),
    "DiscretizeObservation": lambda env: wrappers.DiscretizeObservation(env, 3),
    "FilterObservation": lambda env: wrappers.FilterObservation(
        wrappers.TimeAwareObservation(env, flatten=False), ["time"]
    ),
    "FlattenObservation": wrappers.FlattenObservation,
    "FrameStackObservation": lambda env: wrappers.FrameStackObservation(env, 3),
    "TransformObservation": lambda env: wrappers.TransformObservation(env, lambda x: 2 * x, BOX),
    "MaxAndSkipObservation": lambda env: wrappers.MaxAndSkipObservation(env, 2),
    "NormalizeObservation": wrappers.NormalizeObservation,
    "AddRenderObservation": wrappers.AddRenderObservation,
    "GrayscaleObservation": lambda env: wrappers.GrayscaleObservation(
        wrappers.AddRenderObservation(env)
    ),
    "ReshapeObservation": lambda env: wrappers.ReshapeObservation(env, (4, 8)),
    "RescaleObservation": lambda env: wrappers.RescaleObservation(
        env, np.float32(-5), np.float32(5)
    ),
    "TimeAwareObservation": wrappers.TimeAwareObservation,
    "TransformAction": lambda env: wrappers.TransformAction(env, lambda a: 9 - a, env.action_space),
    "StickyAction": lambda env: wrappers.StickyAction(env, 0.5),
    "RepeatAction": lambda env: wrappers.RepeatAction(env, 2),
    "ClipReward": lambda env: wrappers.ClipReward(env, -0.1, 0.1),
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda r: 2 * float(r)),
    "NormalizeReward": wrappers.NormalizeReward,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 3),
    "Autoreset": wrappers.Autoreset,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "OrderEnforcing": wrappers.OrderEnforcing,
    "RecordEpisodeStatistics": wrappers.RecordEpisodeStatistics,
    "AddWhiteNoise": lambda env: wrappers.AddWhiteNoise(env, 0.5),
    "ObstructView": lambda env: wrappers.ObstructView(wrappers.AddRenderObservation(env), 0.5, 8),
    "RenderCollection": wrappers.RenderCollection,
}
NOT_APPLICABLE = {
    *(
        "vector",
        "AtariPreprocessing",
        "ArrayConversion",
        "JaxToNumpy",
        "JaxToTorch",
        "NumpyToTorch",
    ),
    # Actions are no Box.
    *("ClipAction", "DiscretizeAction", "RescaleAction"),
    # They need packages beyond this project's: OpenCV, MoviePy, pygame,
    # like those of arrays above: array-api-compat, JAX.
    *("ResizeObservation", "RecordVideo", "HumanRendering"),
}
VECTOR_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "VectorizeTransformObservation": lambda envs: vector_wrappers.VectorizeTransformObservation(
        envs, wrappers.TransformObservation, func=lambda x: 2 * x, observation_space=BOX
    ),
    "VectorizeTransformAction": lambda envs: vector_wrappers.VectorizeTransformAction(
        envs,
        wrappers.TransformAction,
        func=lambda a: 9 - a,
        action_space=envs.single_action_space,
    ),
    "VectorizeTransformReward": lambda envs: vector_wrappers.VectorizeTransformReward(
        envs, wrappers.TransformReward, func=lambda r: 2 * r
    ),
    "DictInfoToList": vector_wrappers.DictInfoToList,
    "TransformObservation": lambda envs: vector_wrappers.TransformObservation(
        envs, lambda x: 2 * x, single_observation_space=BOX
    ),
    "FlattenObservation": vector_wrappers.FlattenObservation,
    "ReshapeObservation": lambda envs: vector_wrappers.ReshapeObservation(envs, (4, 8)),
    "RescaleObservation": lambda envs: vector_wrappers.RescaleObservation(
        envs, np.float32(-5), np.float32(5)
    ),
    "DtypeObservation": lambda envs: vector_wrappers.DtypeObservation(envs, np.float64),
    "NormalizeObservation": vector_wrappers.NormalizeObservation,
    "TransformAction": lambda envs: vector_wrappers.TransformAction(
        envs, MIRROR, envs.action_space
    ),
    "TransformReward": lambda envs: vector_wrappers.TransformReward(envs, lambda r: 2 * r),
    "ClipReward": lambda envs: vector_wrappers.ClipReward(envs, -0.1, 0.1),
    "NormalizeReward": vector_wrappers.NormalizeReward,
    "RecordEpisodeStatistics": vector_wrappers.RecordEpisodeStatistics,
}
NOT_APPLICABLE_VECTOR = {
    *("ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch"),
    *("ClipAction", "RescaleAction"),
    # Observations are neither dicts nor images.
    *("FilterObservation", "GrayscaleObservation", "ResizeObservation"),
    *("RecordVideo", "HumanRendering"),
}


def test_every_wrapper_of_gymnasium_is_tried():
    assert WRAPPERS.keys() | NOT_APPLICABLE == {*wrappers.__all__}
    assert VECTOR_WRAPPERS.keys() | NOT_APPLICABLE_VECTOR == {*vector_wrappers.__all__}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrappers_of_gymnasium_apply(wrapper: str):
    if wrapper == "GrayscaleObservation" and not importlib.util.find_spec("cv2"):
        pytest.skip("OpenCV is not installed")
    env = WRAPPERS[wrapper](gym.make(NAME, render_mode="rgb_array", **SMALL))
    observation, _ = env.reset(seed=1)
    assert observation in env.observation_space
    assert episode_steps(env) <= EPISODE
    env.render()
    env.close()


@pytest.mark.parametrize(
    ("wrapper", "mode"),
    [
        *((wrapper, "NextStep") for wrapper in VECTOR_WRAPPERS),
        # Gymnasium's own wrappers of observations refuse environments that reset in the same step.
        *((wrapper, "SameStep") for wrapper in VECTOR_WRAPPERS if "Observation" not in wrapper),
    ],
)
def test_vector_wrappers_of_gymnasium_apply(wrapper: str, mode: str):
    envs = gym.make_vec(NAME, 2, autoreset_mode=mode, **SMALL)
    wrapped = VECTOR_WRAPPERS[wrapper](envs)
    observations, _ = wrapped.reset(seed=1)
    assert observations in wrapped.observation_space
    actions = np.array([3, 7])
    ends = [bool(wrapped.step(actions)[3].all()) for _ in range(2 * EPISODE + 1)]
    period = EPISODE + (mode == "NextStep")
    assert ends == [(step + 1) % period == EPISODE % period for step in range(2 * EPISODE + 1)]
