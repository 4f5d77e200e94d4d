"""Long use of an environment."""

import gc
import itertools
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spangym.envs import EnvConfig, SB3SpanControlVecEnv

PAGE = 4096


@pytest.fixture
def env() -> SB3SpanControlVecEnv:
    env = SB3SpanControlVecEnv(EnvConfig(dims=8, heads=2, ctx=64, chunks_per_episode=4), n_envs=2)
    env.seed(0)
    env.reset()
    return env


def play(env: SB3SpanControlVecEnv, steps: int) -> None:
    for step in range(steps):
        env.step(np.array([step % 10, step % 7]))


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("tracing")
def test_no_object_is_left_behind(env: SB3SpanControlVecEnv):
    """Neither tensors nor Python's memory (arrays included) grow from episode to episode."""
    sizes = []
    for _ in range(5):
        play(env, 48)
        gc.collect()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
        sizes.append((tensors, tracemalloc.get_traced_memory()[0]))
    assert sizes[1][0] == sizes[4][0]
    # A leak of one float for each token would show in every episode: 512 bytes a step. NumPy and
    # PyTorch keep up to 4 KB more of small blocks from one episode to the next.
    assert min(after[1] - before[1] for before, after in itertools.pairwise(sizes)) < 48 * 256


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_resident_memory_does_not_grow(env: SB3SpanControlVecEnv):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    play(env, 1_000)
    before = resident()
    play(env, 10_000)
    # A leak of one float for each fifth token would show: 100 bytes a step.
    assert resident() - before < 1_000_000
