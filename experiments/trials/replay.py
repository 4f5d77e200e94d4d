"""``spangym validate``: play stored episodes again and see whether they come out the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pandas as pd

from spangym.envs import Settings
from spangym.envs.rewards import REWARDS
from spangym.experiments.studies.load_study import judging
from spangym.experiments.studies.study import Trial
from spangym.experiments.trials.evaluate import play, read_action
from spangym.experiments.trials.run_dir import RunFolder
from spangym.utils.errors import UserError


class Verdict(IntEnum):
    """How a replay compares, the worse the higher."""

    TO_THE_BIT = 0
    UP_TO_ROUNDING = 1
    NOT = 2

    def __str__(self) -> str:
        """In words."""
        return ("reproduced to the bit", "reproduced up to rounding", "NOT reproduced")[self]


_ROUNDING = 1e-4
"""Relative difference that another machine's rounding may make."""
_LANES = 16
_GIVEN = ("evaluation_seed", "actions")


@dataclass(frozen=True)
class Replayed:
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
    rewards: Verdict
    outputs: Verdict
    difference: str

    @property
    def reproduced(self) -> bool:
        """Whether all is reproduced."""
        return Verdict.NOT not in (self.rewards, self.outputs)

    def __str__(self) -> str:
        """The verdict in a line."""
        said = f"{self.trial}, episode {self.evaluation_seed}: "
        said += f"rewards {self.rewards}, outputs {self.outputs}"
        return f"{said} ({self.difference})" if self.difference else said


def validate(folder: RunFolder) -> Iterator[Replayed]:
    """Play the actions of every stored evaluation episode of a run again: see `replay`."""
    for trial in folder.finished():
        yield from replay(folder, trial)


def replay(folder: RunFolder, trial: Trial) -> Iterator[Replayed]:
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
    rows, settings = folder.evaluation(trial), judging(trial)
    for start in range(0, len(rows), _LANES):
        try:
            yield from _replay(trial.name, settings, rows.iloc[start : start + _LANES])
        except ValueError as error:
            path = folder.folder_of(trial) / "evaluation.csv"
            raise UserError(
                f"run folder is damaged: {path}: its actions cannot be played: {error}"
            ) from error


def _replay(trial: str, settings: Settings, rows: pd.DataFrame) -> Iterator[Replayed]:
    actions = [[read_action(each) for each in row.split(" ")] for row in rows["actions"]]
    decisions = settings.chunks * settings.layers
    if {len(lane) for lane in actions} != {decisions}:
        raise ValueError(f"there must be {decisions} in each row")
    seeds = [int(seed) for seed in rows["evaluation_seed"]]
    again = play(settings, seeds, lambda _, step: np.stack([lane[step] for lane in actions]))
    rounds = REWARDS[settings.reward](settings.price).platform_dependent
    for stored, new in zip(rows.to_dict("records"), again, strict=True):
        judged = [name for name in new if name in stored and name not in _GIVEN]
        verdicts = {name: compared(stored[name], new[name], rounds) for name in judged}
        worst = max(judged, key=lambda name: verdicts[name])
        difference = ""
        if verdicts[worst]:
            difference = f"{worst}: stored {stored[worst]}, now {new[worst]}"
        outputs = verdicts.pop("output_norm")
        seed = int(stored["evaluation_seed"])
        yield Replayed(trial, seed, max(verdicts.values()), outputs, difference)


def compared(stored: float, new: float, rounds: bool) -> Verdict:
    """How a number compares with the stored one, where rounding may differ or not."""
    if stored == new:
        return Verdict.TO_THE_BIT
    close = math.isclose(stored, new, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return Verdict.UP_TO_ROUNDING if close and rounds else Verdict.NOT
