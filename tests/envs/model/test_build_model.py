"""An environment's numbers do not depend on PyTorch's defaults, which an agent may change."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import spangym
from spangym.envs.registration import ENVIRONMENTS
from spangym.utils.process_state import preserve_process_state
from tests.factories import tiny_model_kwargs, two_layer_kwargs

SMALL = {"dims": 8, "heads": 2, "ctx": 16, "win_size": 16, "num_layers": 2}
CASES = [
    *(
        (name, two_layer_kwargs(name))
        for name, kwargs in ENVIRONMENTS.items()
        if "checkpoint" in kwargs
    ),
    ("spangym/SpanControl-v0", SMALL),
    ("spangym/SpanControl-v0", {**SMALL, "layer_variant": "original"}),
    ("spangym/SpanControl-v0", {**SMALL, "layer_class": "hybrid", "reward": "attention"}),
    ("spangym/SpanControl-v0", {**SMALL, "layer_class": "focus"}),
    ("spangym/Pretrained-v0", tiny_model_kwargs("spangym/Pretrained-v0")),
    ("spangym/PretrainedCache-v0", tiny_model_kwargs("spangym/PretrainedCache-v0")),
]


def _episode(name: str, kwargs: dict[str, Any]) -> list[list[float]]:
    envs: Any = gym.make_vec(name, num_envs=2, **kwargs)
    observations, _ = envs.reset(seed=[0, 1])
    numbers = [np.ravel(observations).tolist()]
    for action in range(2):
        observations, rewards, *_ = envs.step(np.array([3, 9 - action]))
        numbers += [np.ravel(observations).tolist(), rewards.tolist()]
    return numbers


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_defaults_of_pytorch_change_nothing(name: str, kwargs: dict[str, Any]):
    assert spangym.__version__
    expected = _episode(name, kwargs)
    with preserve_process_state():
        torch.set_default_dtype(torch.float64)
        assert _episode(name, kwargs) == expected
