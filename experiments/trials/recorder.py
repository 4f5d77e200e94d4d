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

from spangym.attention import ACTIONS
from spangym.envs import SpanControlVecEnv
from spangym.experiments.trials.episode_stats import EpisodeTotals
from spangym.experiments.trials.tensorboard import Board
from spangym.utils.atomic_io import written_whole

_HISTOGRAMS = 20
"""Pictures of what is chosen, over a training."""


class Recorder(VecEnvWrapper):
    """Writes a row to ``curve.csv`` and to TensorBoard for each episode of a training.

    Columns: ``step`` (of the training, over all lanes), ``episode`` (counted from 0), ``return``,
    the parts of the reward (``reward_...``, summed over the episode), ``mean_span`` (tokens),
    ``visited_keys`` (summed over the episode) and ``wall_seconds`` (since the training began).

    Args:
        venv: Environment to watch.
        folder: Where ``curve.csv`` goes.
        board: Where TensorBoard's events go.
        steps: Steps of the whole training; more are refused.
        stream_seed: Seed of the streams.
        progress: Called with the steps done after each step.
        state: What `state_dict` gave in an earlier process, to go on from there.
    """

    def __init__(
        self,
        venv: SpanControlVecEnv,
        folder: Path,
        board: Board,
        steps: int,
        stream_seed: int,
        progress: Callable[[int], None],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(venv)
        self.steps = 0
        self._budget = steps
        self._parts = parts = venv.simulator.reward.parts
        self._board = board
        self._progress = progress
        self._episode = 0
        self._totals = [EpisodeTotals(parts) for _ in range(self.num_envs)]
        self._columns = ["step", "episode", *EpisodeTotals.columns(parts), "wall_seconds"]
        self._path = folder / "curve.csv"
        self._stream_seeds = venv.seed(stream_seed)
        self._period = max(1, steps // _HISTOGRAMS)
        self._shown = 0
        self._actions = np.zeros(ACTIONS, np.int64)
        self._chosen = self._actions
        seconds, rows = 0.0, ",".join(self._columns) + "\n"
        if state is not None:
            self.steps, self._episode = state["steps"], state["episode"]
            for totals, stored in zip(self._totals, state["totals"], strict=True):
                totals.load_state_dict(stored)
            seconds, rows = state["seconds"], state["rows"]
            self._actions = state["actions"].copy()
            self._shown = self.steps // self._period
            venv.load_state_dict(state["environment"])
        with written_whole(self._path) as aside:
            aside.write_text(rows, "utf-8")
        self._file = self._path.open("a", newline="", buffering=1)
        self._rows = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        board.begin(self.steps)
        self._began = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        """Wall time since the training began, without what passed between processes."""
        return time.perf_counter() - self._began

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Keep the streams' own seed, whatever an agent asks for: all agents see the same ones."""
        del seed
        return self._stream_seeds

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed here and in the environment, ``curve.csv`` among it."""
        environment = cast(SpanControlVecEnv, self.venv)
        return {
            "steps": self.steps,
            "episode": self._episode,
            "totals": [totals.state_dict() for totals in self._totals],
            "seconds": self.seconds,
            "rows": self._path.read_text("utf-8"),
            "actions": self._actions.copy(),
            "environment": environment.state_dict(),
        }

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
        self._chosen = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Hand back what came of the actions, and note it."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        np.add.at(self._actions, self._chosen, 1)
        for lane, info in enumerate(infos):
            self._totals[lane].add(float(rewards[lane]), info)
        for lane in np.flatnonzero(dones):
            self._write(self._totals[lane].row())
            self._totals[lane] = EpisodeTotals(self._parts)
        self._progress(self.steps)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Close the file and the environment."""
        self._file.close()
        super().close()

    def _write(self, totals: dict[str, Any]) -> None:
        seconds = round(self.seconds, 3)
        row = {"step": self.steps, "episode": self._episode, **totals, "wall_seconds": seconds}
        self._rows.writerow(row)
        self._board.episode(totals, self.steps)
        # Some twenty pictures of what is chosen are enough.
        if self.steps // self._period > self._shown:
            self._shown = self.steps // self._period
            self._board.actions(self._actions, self.steps)
            self._actions[:] = 0
        self._episode += 1
