"""Long use of an environment."""

import resource

import numpy as np

from spangym.envs import Settings, SpanControlVecEnv


def test_memory_does_not_grow():
    env = SpanControlVecEnv(Settings(dims=8, heads=2, ctx=16, chunks=4), lanes=2)
    env.seed(0)
    env.reset()
    generator = np.random.default_rng(0)

    def play(steps: int) -> int:
        """Peak memory after so many steps, in KiB."""
        for _ in range(steps):
            env.step(generator.integers(10, size=2))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    warm = play(1_000)
    assert play(5_000) - warm < 2_048
