"""Judging a trained agent on streams that are the same for all and in no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..agents import Agent
from ..envs import Settings, SpanControlVecEnv
from .recorder import EpisodeTotals


def evaluate(
    agent: Agent,
    settings: Settings,
    first_seed: int,
    episodes: int,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Play one episode a seed, without learning.

    Args:
        agent: What decides.
        settings: Environment to play in.
        first_seed: Seed of the first episode; the others follow.
        episodes: How many, side by side as lanes.
        progress: Called with the steps done after each step.

    Returns:
        A row an episode: ``evaluation_seed`` and the episode's totals.
    """
    env = SpanControlVecEnv(settings, episodes)
    env.seed(first_seed)
    observations = env.reset()
    parts = env.simulator.reward.parts
    totals = [EpisodeTotals(parts) for _ in range(episodes)]
    steps = settings.chunks * settings.layers
    for step in range(steps):
        assert isinstance(observations, np.ndarray)
        observations, rewards, _, infos = env.step(agent.predict(observations))
        for lane, info in enumerate(infos):
            totals[lane].add(float(rewards[lane]), info)
        progress((step + 1) * episodes)
    return [{"evaluation_seed": first_seed + i, **each.row()} for i, each in enumerate(totals)]
