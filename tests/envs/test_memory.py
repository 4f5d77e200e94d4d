"""Long use of an environment."""

import sys
from pathlib import Path

import numpy as np
import pytest

from spangym.envs import EnvConfig, SB3SpanControlVecEnv

PAGE = 4096


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("steps", [8_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(steps: int):
    env = SB3SpanControlVecEnv(EnvConfig(dims=8, heads=2, ctx=16, chunks_per_episode=4), n_envs=2)
    env.seed(0)
    env.reset()
    generator = np.random.default_rng(0)

    def play(steps: int) -> int:
        """Resident memory after so many steps, in bytes."""
        for _ in range(steps):
            env.step(generator.integers(10, size=2))
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    warm = play(1_000)
    # A leak of one float for each token would show: 128 bytes a step.
    assert play(steps) - warm < 1_000_000
