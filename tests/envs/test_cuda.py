"""Environments on a CUDA device against the CPU, and how often a step waits for the device."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from spangym.envs import ENVIRONMENTS, SpanControlVectorEnv

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("spangym/SpanControl-v0", {"encoding": "features"}),
    ("spangym/SpanControl-v0", {"encoding": "features", "reward": "attention"}),
    ("spangym/SpanControl-v0", {"encoding": "features", "control_kv_cache": True}),
    ("spangym/LongRange-v0", {"encoding": "features", "autocorrelation": True}),
]


def make_envs(env_id: str, arguments: dict[str, Any], device: str) -> SpanControlVectorEnv:
    kwargs = {**ENVIRONMENTS[env_id], **arguments, "chunks_per_episode": 3}
    return SpanControlVectorEnv(8, device=device, **kwargs)


@pytest.mark.parametrize(("env_id", "arguments"), CASES)
def test_steps_are_those_of_the_cpu(env_id: str, arguments: dict[str, Any]):
    found, expected = (make_envs(env_id, arguments, each) for each in (DEVICE, "cpu"))
    close: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(found.reset(seed=0)[0], expected.reset(seed=0)[0], **close)
    expected.action_space.seed(0)
    # The last step starts the next episode.
    for _ in range(expected.core.episode_length - 1):
        actions = expected.action_space.sample()
        one, other = found.step(actions), expected.step(actions)
        np.testing.assert_allclose(one[0], other[0], **close)
        np.testing.assert_allclose(one[1], other[1], **close)
        # Rounding may end a refinement a pass earlier or later.
        assert (one[4]["span"] == other[4]["span"]).mean() >= 7 / 8


@pytest.mark.parametrize(("env_id", "arguments"), CASES)
def test_a_step_waits_once_for_the_device(env_id: str, arguments: dict[str, Any]):
    envs = make_envs(env_id, arguments, DEVICE)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            envs.step(envs.action_space.sample())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waited = [str(each.message) for each in caught if "synchroniz" in str(each.message)]
    assert len(waited) == 1
