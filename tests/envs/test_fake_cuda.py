"""Environments on a CUDA device of fake tensors: one copy to the host in a step."""

from collections.abc import Callable
from typing import Any

import pytest

from spangym.envs import ENVIRONMENTS, SpanControlVectorEnv
from spangym.envs.core import EpisodeCore
from spangym.envs.lookahead import (
    action_coverages,
    lookahead,
    one_step_rewards,
    predictor_action,
)

from ..fake_cuda import fake_cuda, to_fake_cuda

NUM_ENVS = 2
TRAINED = "spangym/LongRange-v0"


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("spangym/SpanControl-v0", {"ctx": 48, "dims": 32}),
        ("spangym/SpanControl-v0", {"ctx": 48, "dims": 64, "reward": "attention"}),
        ("spangym/SpanControl-v0", {"ctx": 48, "dims": 64, "control_kv_cache": True}),
        (TRAINED, {"encoding": "features", "autocorrelation": True, "pool_groups": 8}),
        (TRAINED, {"encoding": "box", "observation_time": "previous", "reward": "task"}),
    ],
)
def test_a_step_copies_once_to_the_host(env_id: str, arguments: dict[str, Any]):
    kwargs = {**ENVIRONMENTS[env_id], **arguments, "chunks_per_episode": 2}
    envs = SpanControlVectorEnv(NUM_ENVS, **kwargs)
    with fake_cuda() as transfers:
        to_fake_cuda(envs.core.stack)
        observations, _ = envs.reset(seed=0)
        for _ in range(envs.core.episode_length - 1):
            transfers.clear()
            seen, rewards, *_ = envs.step(envs.action_space.sample())
            assert seen.shape == observations.shape
            assert rewards.shape == (NUM_ENVS,)
            assert len(transfers.to_host) == 1
            assert transfers.waiting == []


@pytest.mark.parametrize("control_kv_cache", [False, True])
@pytest.mark.parametrize("query", [one_step_rewards, action_coverages, predictor_action, lookahead])
def test_queries_copy_at_most_once_to_the_host(
    query: Callable[[EpisodeCore], object], control_kv_cache: bool
):
    sizes = {"ctx": 48, "dims": 64, "action_scale": "absolute"}
    envs = SpanControlVectorEnv(NUM_ENVS, **sizes, control_kv_cache=control_kv_cache)
    with fake_cuda() as transfers:
        to_fake_cuda(envs.core.stack)
        envs.reset(seed=0)
        transfers.clear()
        query(envs.core)
        assert len(transfers.to_host) == 1
        assert transfers.waiting == []
