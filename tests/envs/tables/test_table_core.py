"""The table backend is bit-equal to the live one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import ENVIRONMENTS, tabulate

LEVELS = 3
ENCODINGS: list[dict[str, Any]] = [
    {},
    {"encoding": "box", "cost_coef": 0.123},
    {"encoding": "features", "autocorrelation": True, "pool_groups": 4},
    {"encoding": "state", "include_layer_index": True},
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp("cache")
        patch.setenv("SPANGYM_CACHE", str(folder))
        yield folder


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_id_is_bit_equal_on_its_levels(name: str):
    tabulate(name, LEVELS)
    for options in ENCODINGS:
        arguments = {"num_levels": LEVELS, "chunks_per_episode": 3, **options}
        live: Any = gym.make_vec(name, 4, **arguments)
        table: Any = gym.make_vec(name, 4, backend="table", **arguments)
        assert table.single_observation_space == live.single_observation_space
        one, two = live.reset(seed=1), table.reset(seed=1)
        assert_equal(one, two)
        generator = np.random.default_rng(0)
        for _ in range(8):
            actions = generator.integers(10, size=4)
            one, two = live.step(actions), table.step(actions)
            assert_equal(one, two)
            assert_equal(live.output_observations(), table.output_observations())


def assert_equal(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, np.ndarray) and one.dtype != object:
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, dict):
        assert [*one] == [*two]
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, tuple | list | np.ndarray):
        assert len(one) == len(two)
        for each, other in zip(one, two, strict=True):
            assert_equal(each, other)
    else:
        assert one == two


@pytest.mark.parametrize("encoding", ["box", "state"])
def test_observations_and_rewards_of_all_levels_are_those_of_the_steps(encoding: str):
    arguments: dict[str, Any] = {"num_levels": LEVELS, "chunks_per_episode": 3}
    tabulate("LongRange-v0", LEVELS)
    env: Any = gym.make(
        "spangym/LongRange-v0", backend="table", encoding=encoding, **arguments
    ).unwrapped
    observations, rewards = env.core.observations, env.core.rewards
    assert [each.shape[:2] for each in observations] == [(LEVELS, 1), (LEVELS, 10)]
    assert [each.shape for each in rewards] == [(LEVELS, 10), (LEVELS, 100)]
    observation, _ = env.reset(seed=3)
    for first, second in ((3, 7), (9, 0), (0, 2)):
        inner, reward, *_, info = env.step(first)
        level = info["level"]
        assert_equal(observation, observations[0][level, 0])
        assert_equal(inner, observations[1][level, first])
        assert reward == rewards[0][level, first]
        observation, reward, *_ = env.step(second)
        assert reward == rewards[1][level, 10 * first + second]
    with pytest.raises(ValueError, match="read-only"):
        rewards[0][0, 0] = 1
