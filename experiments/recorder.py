"""What a training leaves behind: one row an episode, the same for every agent."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from torch.utils.tensorboard import SummaryWriter


class EpisodeTotals:
    """Adds up one lane's episode.

    Args:
        parts: Names of the reward's parts.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = parts
        self._steps = 0
        self._span = 0
        self._sums = dict.fromkeys(self.columns(parts), 0.0)

    @staticmethod
    def columns(parts: tuple[str, ...]) -> list[str]:
        """Names of the totals: return, the parts of the reward, mean span, visited keys."""
        return ["return", *(f"reward_{part}" for part in parts), "mean_span", "visited_keys"]

    def add(self, reward: float, info: dict[str, Any]) -> None:
        """Add one step."""
        self._steps += 1
        self._span += info["span"]
        self._sums["return"] += reward
        for part in self._parts:
            self._sums[f"reward_{part}"] += info["reward_parts"][part]
        self._sums["visited_keys"] += info["visited_keys"]

    def row(self) -> dict[str, Any]:
        """The totals by column; the span is the mean over the steps, in tokens."""
        visited = int(self._sums["visited_keys"])
        return {**self._sums, "mean_span": self._span / self._steps, "visited_keys": visited}


class Recorder(VecEnvWrapper):
    """Writes a row to ``curve.csv`` and scalars to TensorBoard for each episode of a training.

    Columns: ``step`` (of the training, over all lanes), ``episode`` (counted from 0), ``return``,
    the parts of the reward (``reward_...``, summed over the episode), ``mean_span`` (tokens),
    ``visited_keys`` (summed over the episode) and ``wall_seconds`` (since the training began).

    Args:
        venv: Environment to watch.
        folder: Where the files go.
        parts: Names of the reward's parts.
        steps: Steps of the whole training; more are refused.
        stream_seed: Seed of the streams.
        progress: Called with the steps done after each step.
    """

    def __init__(
        self,
        venv: VecEnv,
        folder: Path,
        parts: tuple[str, ...],
        steps: int,
        stream_seed: int,
        progress: Callable[[int], None],
    ) -> None:
        super().__init__(venv)
        self.steps = 0
        self._budget = steps
        self._stream_seed = stream_seed
        self._parts = parts
        self._progress = progress
        self._episode = 0
        self._totals = [EpisodeTotals(parts) for _ in range(self.num_envs)]
        self._columns = ["step", "episode", *EpisodeTotals.columns(parts), "wall_seconds"]
        self._file = (folder / "curve.csv").open("a", newline="", buffering=1)
        self._rows = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        self._rows.writeheader()
        self._board = SummaryWriter(str(folder))
        self._began = time.perf_counter()
        self.seed()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Keep the streams' own seed, whatever an agent asks for: all agents see the same ones."""
        del seed
        return self.venv.seed(self._stream_seed)

    def reset(self) -> Any:
        """Begin an episode in every lane."""
        self._totals = [EpisodeTotals(self._parts) for _ in range(self.num_envs)]
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Hand on the actions.

        Raises:
            RuntimeError: The training has used all its steps.
        """
        if self.steps + self.num_envs > self._budget:
            raise RuntimeError(f"the agent takes more than the {self._budget} steps of training")
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Hand back what came of the actions, and note it."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        for lane, info in enumerate(infos):
            self._totals[lane].add(float(rewards[lane]), info)
        for lane in np.flatnonzero(dones):
            self._write(self._totals[lane].row())
            self._totals[lane] = EpisodeTotals(self._parts)
        self._progress(self.steps)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Close the files and the environment."""
        self._file.close()
        self._board.close()
        super().close()

    def evaluated(self, mean_return: float) -> None:
        """Note what the trained agent earns in evaluation."""
        self._board.add_scalar("evaluation/return", mean_return, self.steps)

    def _write(self, totals: dict[str, Any]) -> None:
        seconds = round(time.perf_counter() - self._began, 3)
        row = {"step": self.steps, "episode": self._episode, **totals, "wall_seconds": seconds}
        self._rows.writerow(row)
        for name, value in totals.items():
            self._board.add_scalar(f"training/{name}", value, self.steps)
        self._episode += 1
