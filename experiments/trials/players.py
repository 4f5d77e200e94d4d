"""Environments of trainings and evaluations, of spangym or of a user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from spangym.envs import (
    EnvComponents,
    EnvConfig,
    SB3SpanControlVecEnv,
    SpanControlVectorEnv,
)
from spangym.envs.tables.table_file import open_shipped
from spangym.experiments.studies.foreign_env import ForeignEnv

AnyConfig = EnvConfig | ForeignEnv


def as_live(config: AnyConfig) -> AnyConfig:
    """Return an environment with the same numbers for which no table has to be made."""
    if isinstance(config, EnvConfig) and not open_shipped(config, EnvComponents()):
        return dataclasses.replace(config, backend="live")
    return config


def make_training_env(config: AnyConfig, num_envs: int = 1) -> VecEnv:
    """Make the parallel environments of a training."""
    if isinstance(config, EnvConfig):
        return SB3SpanControlVecEnv(config, num_envs)
    return DummyVecEnv([config.make] * num_envs)


def reward_components(config: AnyConfig) -> tuple[str, ...]:
    """Return the names of the components of the reward."""
    if isinstance(config, EnvConfig):
        return tuple(config.make_reward().components)
    return config.traits.components


class ForeignEpisodes:
    """Foreign environments side by side, as agents may ask for them in evaluations.

    Attributes:
        envs: The environments.
        num_envs: Number of environments.
        action_space: Actions of one environment.
    """

    def __init__(self, config: ForeignEnv, num_envs: int) -> None:
        self.envs = [config.make() for _ in range(num_envs)]
        self.num_envs = num_envs
        self.action_space = self.envs[0].action_space


class Player:
    """Parallel episodes that begin and end together, one for each seed.

    Args:
        config: Configuration of the environments.
        num_envs: Number of environments.

    Attributes:
        env: The environments, which agents may ask in evaluations.
    """

    def __init__(self, config: AnyConfig, num_envs: int) -> None:
        self.env: SpanControlVectorEnv | ForeignEpisodes
        if isinstance(config, EnvConfig):
            self.env = SpanControlVectorEnv(num_envs, **dataclasses.asdict(config))
        else:
            self.env = ForeignEpisodes(config, num_envs)

    def reset(self, seeds: Sequence[int]) -> NDArray[Any]:
        """Start an episode from each seed; return the observations."""
        if isinstance(self.env, SpanControlVectorEnv):
            return self.env.reset(seed=seeds)[0]
        pairs = zip(self.env.envs, seeds, strict=True)
        return np.stack([np.asarray(env.reset(seed=int(seed))[0]) for env, seed in pairs])

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], list[float], list[dict[str, Any]]]:
        """Play one step; return observations, rewards and infos."""
        if isinstance(self.env, SpanControlVectorEnv):
            step = self.env.core.step(actions)
            return step.observations, [*map(float, step.rewards)], step.infos
        pairs = zip(self.env.envs, actions.tolist(), strict=True)
        results = [env.step(action) for env, action in pairs]
        observations, rewards, _, _, infos = zip(*results, strict=True)
        return np.stack([*map(np.asarray, observations)]), [*map(float, rewards)], [*infos]
