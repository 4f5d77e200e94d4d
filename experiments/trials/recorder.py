"""What a training leaves behind: one row an episode, the same for every agent."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from spangym.attention import NUM_ACTIONS
from spangym.envs import SB3SpanControlVecEnv
from spangym.experiments.trials.episode_stats import EpisodeStats
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.utils.atomic_io import atomic_write

_NUM_HISTOGRAMS = 20
"""Pictures of what is chosen, over a training."""


class EpisodeRecorder(VecEnvWrapper):
    """Writes a row to ``curve.csv`` and to TensorBoard for each episode of a training.

    Columns: ``step`` (of the training, over all envs), ``episode`` (counted from 0), ``return``,
    the parts of the reward (``reward_...``, summed over the episode), ``mean_span`` (tokens),
    ``qk_pairs`` (summed over the episode) and ``wall_seconds`` (since the training began).

    Args:
        venv: Environment to watch.
        folder: Where ``curve.csv`` goes.
        logger: Where TensorBoard's events go.
        total_timesteps: Steps of the whole training; more are refused.
        env_seed: Seed of the streams.
        progress: Called with the steps done after each step.
        state: What `state_dict` gave in an earlier process, to go on from there.
    """

    def __init__(
        self,
        venv: SB3SpanControlVecEnv,
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
        self._parts = parts = venv.core.reward.components
        self._logger = logger
        self._progress = progress
        self._episode = 0
        self._stats = [EpisodeStats(parts) for _ in range(self.num_envs)]
        self._columns = ["step", "episode", *EpisodeStats.columns(parts), "wall_seconds"]
        self._path = folder / "curve.csv"
        self._env_seeds = venv.seed(env_seed)
        self._period = max(1, total_timesteps // _NUM_HISTOGRAMS)
        self._last_histogram = 0
        self._actions = np.zeros(NUM_ACTIONS, np.int64)
        self._last_actions = self._actions
        seconds, rows = 0.0, ",".join(self._columns) + "\n"
        if state is not None:
            self.steps, self._episode = state["steps"], state["episode"]
            for stats, stored in zip(self._stats, state["stats"], strict=True):
                stats.load_state_dict(stored)
            seconds, rows = state["seconds"], state["rows"]
            self._actions = state["actions"].copy()
            self._last_histogram = self.steps // self._period
            venv.load_state_dict(state["environment"])
        with atomic_write(self._path) as tmp:
            tmp.write_text(rows, "utf-8")
        self._file = self._path.open("a", newline="", buffering=1)
        self._rows = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        logger.open(self.steps)
        self._start_time = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Wall time since the training began, without what passed between processes."""
        return time.perf_counter() - self._start_time

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Keep the streams' own seed, whatever an agent asks for: all agents see the same ones."""
        del seed
        return self._env_seeds

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed here and in the environment, ``curve.csv`` among it."""
        environment = cast(SB3SpanControlVecEnv, self.venv)
        return {
            "steps": self.steps,
            "episode": self._episode,
            "stats": [stats.state_dict() for stats in self._stats],
            "seconds": self.seconds,
            "rows": self._path.read_text("utf-8"),
            "actions": self._actions.copy(),
            "environment": environment.state_dict(),
        }

    def reset(self) -> Any:
        """Begin an episode in every env."""
        self._stats = [EpisodeStats(self._parts) for _ in range(self.num_envs)]
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand on the actions.

        Raises:
            RuntimeError: The training has used all its steps.
        """
        if self.steps + self.num_envs > self._budget:
            raise RuntimeError(f"the agent takes more than the {self._budget} steps of training")
        self._last_actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Hand back what came of the actions, and note it."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        np.add.at(self._actions, self._last_actions, 1)
        for env_index, info in enumerate(infos):
            self._stats[env_index].add(float(rewards[env_index]), info)
        for env_index in np.flatnonzero(dones):
            self._write(self._stats[env_index].row())
            self._stats[env_index] = EpisodeStats(self._parts)
        self._progress(self.steps)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Close the file and the environment."""
        self._file.close()
        super().close()

    def _write(self, stats: dict[str, Any]) -> None:
        seconds = round(self.seconds, 3)
        row = {"step": self.steps, "episode": self._episode, **stats, "wall_seconds": seconds}
        self._rows.writerow(row)
        self._logger.log_episode(stats, self.steps)
        # Some twenty pictures of what is chosen are enough.
        if self.steps // self._period > self._last_histogram:
            self._last_histogram = self.steps // self._period
            self._logger.log_action_histogram(self._actions, self.steps)
            self._actions[:] = 0
        self._episode += 1
