"""``spangym validate``: rollout stored episodes again and see whether they come out the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pandas as pd

from spangym.envs import EnvConfig
from spangym.envs.rewards import REWARDS
from spangym.experiments.studies.load_study import eval_env_config
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.evaluate import parse_action, rollout
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.errors import UserError


class ReplayStatus(IntEnum):
    """How a replay compares, the worse the higher."""

    BIT_EXACT = 0
    UP_TO_ROUNDING = 1
    DIFFERENT = 2

    def __str__(self) -> str:
        """In words."""
        return ("reproduced to the bit", "reproduced up to rounding", "NOT reproduced")[self]


_ROUNDING = 1e-4
"""Relative difference that another machine's rounding may make."""
_NUM_ENVS = 16
_INPUT_COLUMNS = ("evaluation_seed", "actions")


@dataclass(frozen=True)
class ReplayResult:
    """A stored episode and how its replay compares.

    Attributes:
        trial: Name of the trial.
        evaluation_seed: Seed of the episode.
        rewards: Whether return, parts of the reward, span and visited keys are reproduced.
        outputs: Whether the norms of the layers' outputs are.
        difference: The first column that differs, with both values; empty if none does.
    """

    trial: str
    evaluation_seed: int
    rewards: ReplayStatus
    outputs: ReplayStatus
    difference: str

    @property
    def reproduced(self) -> bool:
        """Whether all is reproduced."""
        return ReplayStatus.DIFFERENT not in (self.rewards, self.outputs)

    def __str__(self) -> str:
        """The result in a line."""
        said = f"{self.trial}, episode {self.evaluation_seed}: "
        said += f"rewards {self.rewards}, outputs {self.outputs}"
        return f"{said} ({self.difference})" if self.difference else said


def validate(folder: RunDir) -> Iterator[ReplayResult]:
    """Play the actions of every stored evaluation episode of a run again: see `replay`."""
    for trial in folder.finished():
        yield from replay(folder, trial)


def replay(folder: RunDir, trial: Trial) -> Iterator[ReplayResult]:
    """Play the actions of a finished trial's evaluation episodes again.

    Another machine may round otherwise, if the reward says so; then a difference of rounding's size
    counts as reproduced.

    Args:
        folder: Folder of a run.
        trial: One of its trials.

    Yields:
        What came of each row.

    Raises:
        UserError: Stored rows are damaged.
    """
    rows, config = folder.evaluation(trial), eval_env_config(trial)
    for start in range(0, len(rows), _NUM_ENVS):
        try:
            yield from _replay(trial.job_id, config, rows.iloc[start : start + _NUM_ENVS])
        except ValueError as error:
            path = folder.folder_of(trial) / "evaluation.csv"
            raise UserError(
                f"run folder is damaged: {path}: its actions cannot be played: {error}"
            ) from error


def _replay(trial: str, config: EnvConfig, rows: pd.DataFrame) -> Iterator[ReplayResult]:
    actions = [[parse_action(each) for each in row.split(" ")] for row in rows["actions"]]
    decisions = config.chunks_per_episode * config.num_layers
    if {len(episode) for episode in actions} != {decisions}:
        raise ValueError(f"there must be {decisions} in each row")
    seeds = [int(seed) for seed in rows["evaluation_seed"]]
    again = rollout(config, seeds, lambda _, step: np.stack([episode[step] for episode in actions]))
    allow_rounding = REWARDS[config.reward](config.cost_coef).platform_dependent
    for stored, new in zip(rows.to_dict("records"), again, strict=True):
        compared = [name for name in new if name in stored and name not in _INPUT_COLUMNS]
        statuses = {
            name: compare_values(stored[name], new[name], allow_rounding) for name in compared
        }
        worst = max(compared, key=lambda name: statuses[name])
        difference = ""
        if statuses[worst]:
            difference = f"{worst}: stored {stored[worst]}, now {new[worst]}"
        outputs = statuses.pop("output_norm")
        seed = int(stored["evaluation_seed"])
        yield ReplayResult(trial, seed, max(statuses.values()), outputs, difference)


def compare_values(stored: float, new: float, allow_rounding: bool) -> ReplayStatus:
    """How a number compares with the stored one, where rounding may differ or not."""
    if stored == new:
        return ReplayStatus.BIT_EXACT
    close = math.isclose(stored, new, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return ReplayStatus.UP_TO_ROUNDING if close and allow_rounding else ReplayStatus.DIFFERENT
