"""Contracts of every id and encoding: the checkers of Gymnasium and of Stable-Baselines3."""

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.utils.env_checker import check_env, data_equivalence

from spangym.envs import ENVIRONMENTS
from spangym.envs.encodings import ENCODINGS

IDS = pytest.mark.parametrize("name", ENVIRONMENTS)
OBSERVATIONS = pytest.mark.parametrize(
    "observation",
    [
        {"encoding": encoding, **more}
        for encoding in ENCODINGS
        for more in ({}, {"groups": 2}, {"groups": 4, "layer_index": True})
    ],
    ids=lambda each: "-".join(str(value) for value in each.values()),
)
SMALL: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 32, "chunks": 3}


@IDS
@OBSERVATIONS
def test_checkers_pass_without_a_warning(name: str, observation: dict[str, Any]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(name, **SMALL, **observation)
        check_env(env.unwrapped)
        stable_baselines3.common.env_checker.check_env(env)


@IDS
@OBSERVATIONS
def test_two_copies_stay_equal(name: str, observation: dict[str, Any]):
    one, other = gym.make(name, **SMALL, **observation), gym.make(name, **SMALL, **observation)
    one.action_space.seed(0)
    assert data_equivalence(one.reset(seed=5), other.reset(seed=5), exact=True)
    for _ in range(30):
        action = one.action_space.sample()
        step = one.step(action)
        assert data_equivalence(step, other.step(action), exact=True)
        if step[3]:
            assert data_equivalence(one.reset(), other.reset(), exact=True)


@IDS
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_in_mid_episode_goes_on_alike(name: str, duplicate: Any):
    env = gym.make(name, **SMALL).unwrapped
    env.reset(seed=1)
    env.step(np.int64(4))
    twin = duplicate(env)
    for action in np.arange(5):
        assert data_equivalence(env.step(action), twin.step(action), exact=True)


@IDS
def test_made_unaided_from_another_folder(name: str, tmp_path: Path):
    code = (
        f"import gymnasium as gym; env = gym.make('spangym.envs:{name}', chunks=1);"
        "print(env.reset(seed=0)[1], env.step(9)[2:4])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("(False, False)\n")
