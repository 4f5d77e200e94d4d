"""Levels: fixed chunks from which episodes are drawn."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import ENVIRONMENTS, SB3SpanControlVecEnv, SpanControlVectorEnv, make_config
from spangym.envs.levels import draw_levels
from tests.factories import two_layer_kwargs

SMALL: dict[str, Any] = {"chunks_per_episode": 3, "num_levels": 5, "start_level": 2}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_all_interfaces_play_the_same_levels(name: str):
    arguments = {**two_layer_kwargs(name), **SMALL}
    scalar = gym.make(name, **arguments)
    batch = gym.make_vec(name, 2, **arguments)
    sb3 = SB3SpanControlVecEnv(make_config(name, arguments), 2)
    first, info = scalar.reset(seed=3)
    observations, infos = batch.reset(seed=3)
    sb3.seed(3)
    assert (first == observations[0]).all()
    assert (sb3.reset() == observations).all()
    assert info["level"] == infos["level"][0] == sb3.reset_infos[0]["level"]
    levels = []
    for step in range(6):
        _, reward, *_, info = scalar.step(step)
        _, rewards, _, _, infos = batch.step(np.array([step, step]))
        _, sb3_rewards, _, sb3_infos = sb3.step(np.array([step, step]))
        infos = infos.get("final_info", infos)
        assert reward == rewards[0] == sb3_rewards[0]
        assert info["level"] == infos["level"][0] == sb3_infos[0]["level"]
        levels.append(info["level"])
    assert {*levels} <= {*range(2, 7)}


def test_a_level_is_the_same_content_whatever_the_number_of_levels():
    contents: dict[int, set[bytes]] = {}
    choices: list[dict[str, Any]] = [{"num_levels": 4}, {"num_levels": 3, "start_level": 1}]
    for options in choices:
        envs = SpanControlVectorEnv(4, ctx=32, dims=8, heads=2, **options)
        envs.reset(seed=0)
        core: Any = envs.core
        levels, chunks = core.state_dict()["levels"], core.episode.content
        for env_index, row in enumerate(levels):
            for chunk, level in enumerate(row):
                content = chunks[env_index, chunk].numpy().tobytes()
                contents.setdefault(level, set()).add(content)
    assert {*contents} == {0, 1, 2, 3}
    assert all(len(each) == 1 for each in contents.values())
    assert len(set.union(*contents.values())) == 4


def test_levels_differ_from_the_stream_of_the_same_seed():
    options: dict[str, Any] = {
        "ctx": 32,
        "dims": 8,
        "heads": 2,
        "dataset": "noise",
        "chunks_per_episode": 1,
    }
    stream = SpanControlVectorEnv(1, **options)
    stream.reset(seed=0)
    levels = SpanControlVectorEnv(1, **options, num_levels=1)
    levels.reset(seed=0)
    own: Any = stream.core
    other: Any = levels.core
    assert (own.episode.content[0, 0] != other.episode.content[0, 0]).any()


def test_levels_are_drawn_with_equal_probability():
    generators = [np.random.default_rng(seed) for seed in range(4)]
    drawn = draw_levels(generators, start_level=10, num_levels=4, chunks=2000)
    counts = np.bincount(drawn.ravel() - 10, minlength=4)
    assert counts.sum() == 8000
    assert (abs(counts - 2000) < 200).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_level": 3}, "num_levels"),
        ({"num_levels": -1}, "num_levels"),
        ({"num_levels": 2, "start_level": 2**31 - 1}, "levels must be in"),
        ({"backend": "tables"}, "did you mean 'table'"),
        ({"backend": "table"}, "num_levels"),
        ({"backend": "table", "num_levels": 2, "control_kv_cache": True}, "control_kv_cache"),
        ({"backend": "table", "num_levels": 2, "observation_time": "previous"}, "current"),
        ({"backend": "table", "num_levels": 2, "num_layers": 4}, "at most 3 layers"),
        ({"backend": "table", "num_levels": 2, "num_actions": 101}, "action sequences"),
    ],
)
def test_wrong_levels_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_config("SpanControl-v0", options)


def test_a_state_resumes_with_its_levels():
    envs = SpanControlVectorEnv(2, ctx=32, dims=8, heads=2, **SMALL)
    envs.reset(seed=1)
    envs.step(np.array([3, 4]))
    state = envs.state_dict()
    other = SpanControlVectorEnv(2, ctx=32, dims=8, heads=2, **SMALL)
    other.load_state_dict(state)
    for _ in range(8):
        one, two = envs.step(np.array([1, 9])), other.step(np.array([1, 9]))
        assert (one[1] == two[1]).all()
        assert one[4]["level"].tolist() == two[4]["level"].tolist()
