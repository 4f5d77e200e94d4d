"""Recording of a training: one row per episode, the same for every agent."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from spangym.agents.base import num_actions_in
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.trials.episode_stats import EpisodeStats
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.utils.atomic_io import atomic_write

_NUM_HISTOGRAMS = 20
"""Action histograms of a training."""


class EpisodeRecorder(VecEnvWrapper):
    """Writes each training episode to ``curve.csv`` and TensorBoard, and enforces the step budget.

    Columns: ``step`` (of the training, over all environments), ``episode`` (counted from 0),
    ``return``, reward components (``reward_...``, sums over the episode), ``mean_span`` (tokens),
    ``qk_pairs`` (sum over the episode) and ``wall_seconds`` (since the training started).

    Args:
        venv: Environment of the training.
        components: Names of the components of its reward.
        folder: Folder for ``curve.csv``.
        logger: TensorBoard logger.
        total_timesteps: Steps of the whole training; more raise an error.
        env_seed: Seed of the episodes.
        progress: Function of the steps so far, called after each step.
        state: State from `state_dict`, to resume a training.
    """

    def __init__(
        self,
        venv: VecEnv,
        components: Sequence[str],
        folder: Path,
        logger: TrialLogger,
        total_timesteps: int,
        env_seed: int,
        progress: Callable[[int], None],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(venv)
        self.steps = 0
        self._budget = total_timesteps
        self._components = components
        self._logger = logger
        self._progress = progress
        self._episode = 0
        self._stats = [EpisodeStats(components) for _ in range(self.num_envs)]
        self._columns = ["step", "episode", *EpisodeStats.columns(components), "wall_seconds"]
        self._path = folder / "curve.csv"
        self._env_seeds = venv.seed(env_seed)
        self._histogram_period = max(1, total_timesteps // _NUM_HISTOGRAMS)
        self._last_histogram = 0
        self._action_counts = np.zeros(num_actions_in(venv), np.int64)
        self._last_actions: NDArray[Any] = self._action_counts
        seconds, rows = 0.0, ",".join(self._columns) + "\n"
        if state is not None:
            self.steps, self._episode = state["steps"], state["episode"]
            for stats, stored in zip(self._stats, state["stats"], strict=True):
                stats.load_state_dict(stored)
            seconds, rows = state["seconds"], state["rows"]
            self._action_counts = state["actions"].copy()
            self._last_histogram = self.steps // self._histogram_period
            cast(SB3SpanControlVecEnv, venv).load_state_dict(state["environment"])
        with atomic_write(self._path) as tmp:
            tmp.write_text(rows, "utf-8")
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        logger.open(self.steps)
        self._start_time = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Wall time of the training, without the time between interrupted processes."""
        return time.perf_counter() - self._start_time

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Ignore the agent's seed: all agents see the same episodes."""
        del seed
        return self._env_seeds

    def state_dict(self) -> dict[str, Any]:
        """Return the state of recorder and environment, including the rows of ``curve.csv``."""
        return {
            "steps": self.steps,
            "episode": self._episode,
            "stats": [stats.state_dict() for stats in self._stats],
            "seconds": self.seconds,
            "rows": self._path.read_text("utf-8"),
            "actions": self._action_counts.copy(),
            "environment": cast(SB3SpanControlVecEnv, self.venv).state_dict(),
        }

    def reset(self) -> Any:
        """Start an episode in every environment."""
        self._stats = [EpisodeStats(self._components) for _ in range(self.num_envs)]
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Pass on the actions; RuntimeError if all steps of the training are used."""
        if self.steps + self.num_envs > self._budget:
            raise RuntimeError(f"the agent takes more than the {self._budget} steps of training")
        self._last_actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return the results of the step, and record them."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        self._action_counts += np.bincount(self._last_actions, minlength=len(self._action_counts))
        for stats, reward, info in zip(self._stats, rewards.tolist(), infos, strict=True):
            stats.add(reward, info)
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            self._write([self._stats[env_index].row() for env_index in ended])
            for env_index in ended:
                self._stats[env_index] = EpisodeStats(self._components)
        self._progress(self.steps)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Close the file and the environment."""
        self._file.close()
        super().close()

    def _write(self, episodes: list[dict[str, Any]]) -> None:
        seconds = round(self.seconds, 3)
        for number, stats in enumerate(episodes, self._episode):
            row = {"step": self.steps, "episode": number, **stats, "wall_seconds": seconds}
            self._writer.writerow(row)
        self._file.flush()
        self._logger.log_scalars("training", self.steps, *episodes)
        if self.steps // self._histogram_period > self._last_histogram:
            self._last_histogram = self.steps // self._histogram_period
            self._logger.log_action_histogram(self._action_counts, self.steps)
            self._action_counts[:] = 0
        self._episode += len(episodes)
