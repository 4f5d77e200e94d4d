"""Contracts of every id and encoding: the checkers of Gymnasium and of Stable-Baselines3."""

import contextlib
import copy
import io
import json
import os
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
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

from spangym.attention.observation_spec import ENCODINGS
from spangym.envs import ENVIRONMENTS, SpanControlEnv, SpanControlVectorEnv, check_vector_env
from tests.factories import SMALL_ENV_KWARGS, small_env_kwargs, two_layer_kwargs

IDS = pytest.mark.parametrize("name", ENVIRONMENTS)
OBSERVATIONS: list[dict[str, Any]] = [
    {"encoding": encoding, **more}
    for encoding in ENCODINGS
    for more in (
        {},
        {"pool_groups": 2, "autocorrelation": True, "observation_time": "previous"},
        {"pool_groups": 4, "include_layer_index": True, "control_kv_cache": True},
    )
]
ENVIRONMENT_AND_OBSERVATION = pytest.mark.parametrize(
    ("name", "observation"),
    [
        *((name, {"encoding": "features"}) for name in ENVIRONMENTS),
        *((next(iter(ENVIRONMENTS)), observation) for observation in OBSERVATIONS),
    ],
    ids=lambda each: each if isinstance(each, str) else "-".join(map(str, each.values())),
)


@ENVIRONMENT_AND_OBSERVATION
def test_checkers_pass_without_a_warning(name: str, observation: dict[str, Any]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(name, **small_env_kwargs(name), **observation)
        check_env(env.unwrapped)
        stable_baselines3.common.env_checker.check_env(env)


ORIGINAL = {"layer_variant": "original", "fixes": "local_causal", "reward": "attention"}


def test_checkers_pass_of_original_layers():
    arguments = {**SMALL_ENV_KWARGS, **ORIGINAL, "encoding": "box"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("spangym/SpanControl-v0", **arguments)
        check_env(env.unwrapped)
        stable_baselines3.common.env_checker.check_env(env)
    envs = SpanControlVectorEnv(2, **arguments)
    check_vector_env(envs, lambda: SpanControlEnv(**arguments), steps=20)


@ENVIRONMENT_AND_OBSERVATION
def test_two_copies_stay_equal(name: str, observation: dict[str, Any]):
    one, other = (gym.make(name, **small_env_kwargs(name), **observation) for _ in range(2))
    one.action_space.seed(0)
    assert data_equivalence(one.reset(seed=5), other.reset(seed=5), exact=True)
    for _ in range(16):
        action = one.action_space.sample()
        step = one.step(action)
        assert data_equivalence(step, other.step(action), exact=True)
        if step[3]:
            assert data_equivalence(one.reset(), other.reset(), exact=True)


@IDS
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda env: pickle.loads(pickle.dumps(env)),
        lambda env: env.fork(),
    ],
    ids=["deepcopy", "pickle", "fork"],
)
def test_a_copy_in_mid_episode_continues_equally(name: str, duplicate: Any):
    env = gym.make(name, **small_env_kwargs(name)).unwrapped
    env.reset(seed=1)
    env.step(np.int64(4))
    twin = duplicate(env)
    for action in np.arange(5):
        assert data_equivalence(env.step(action), twin.step(action), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)


TRAJECTORIES = """
import hashlib, json, sys
import gymnasium as gym
for name, kwargs in json.loads(sys.argv[1]).items():
    kwargs |= dict(chunks_per_episode=4, encoding="features", autocorrelation=True)
    env = gym.make(f"spangym.envs:{name}", **kwargs)
    digest = hashlib.sha256(env.reset(seed=9)[0].tobytes())
    for action in [env.action_space.n - 1, 1, 4, 0]:
        observation, reward, *_ = env.step(action)
        digest.update(observation.tobytes() + repr(reward).encode())
    print(name, digest.hexdigest())
"""


def test_made_unaided_in_a_new_process_trajectories_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = {name: two_layer_kwargs(name) for name in ENVIRONMENTS}
    command = [sys.executable, "-c", TRAJECTORIES, json.dumps(arguments)]
    # PyTorch's own kernels, which pretrained models use, round differently with more threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    one = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    ).stdout
    monkeypatch.setattr(sys, "argv", command[2:])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(TRAJECTORIES, {})
    other = output.getvalue()
    assert len({line.split()[1] for line in one.splitlines()}) == len(ENVIRONMENTS)
    assert one == other
