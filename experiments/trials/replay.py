"""``spangym validate``: replaying stored evaluation episodes and comparing the results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pandas as pd

from spangym.envs import EnvConfig
from spangym.experiments.trials.comparison_run import ComparisonDir
from spangym.experiments.trials.evaluate import eval_configs, parse_action, rollout
from spangym.experiments.trials.load_agent import stored_eval_config
from spangym.experiments.trials.players import AnyConfig
from spangym.experiments.trials.trial import Trial
from spangym.utils.errors import UserError
from spangym.utils.process_state import preserve_process_state

_ROUNDING = 1e-4
"""Relative difference that the rounding of another machine may cause."""

_NUM_ENVS = 16
_INPUT_COLUMNS = ("evaluation_seed", "actions")


class ReplayStatus(IntEnum):
    """Agreement of a replay with the stored numbers, from best to worst."""

    BIT_EXACT = 0
    UP_TO_ROUNDING = 1
    DIFFERENT = 2

    def __str__(self) -> str:
        """Return the status in words."""
        return ("reproduced bit-exactly", "reproduced up to rounding", "NOT reproduced")[self]


@dataclass(frozen=True)
class ReplayResult:
    """A stored episode of a trial, given by its job id, compared with its replay.

    Attributes:
        rewards: Status of return, reward components, span and query-key pairs.
        outputs: Status of the norms of the layers' outputs.
        difference: First column that differs, with both values; empty if none does.
    """

    trial: str
    evaluation_seed: int
    rewards: ReplayStatus
    outputs: ReplayStatus
    difference: str

    @property
    def reproduced(self) -> bool:
        """Whether all numbers are reproduced."""
        return ReplayStatus.DIFFERENT not in (self.rewards, self.outputs)

    def __str__(self) -> str:
        """Return the result in one line."""
        line = f"{self.trial}, episode {self.evaluation_seed}: "
        line += f"rewards {self.rewards}, outputs {self.outputs}"
        return f"{line} ({self.difference})" if self.difference else line


def validate(run: ComparisonDir) -> Iterator[ReplayResult]:
    """Replay every evaluation episode of a run, see `replay`."""
    for trial in run.finished():
        yield from replay(run, trial)


def replay(run: ComparisonDir, trial: Trial) -> Iterator[ReplayResult]:
    """Replay the stored actions of a finished trial's evaluation episodes, one result each.

    Some rewards are rounded differently on other machines; for those, differences of the size of
    rounding count as reproduced. Damaged rows raise a UserError.
    """
    rows, config = run.table(trial, "evaluation"), stored_eval_config(trial)
    configs = eval_configs(config, trial.environment.eval_cost_coefs)
    number = trial.evaluation.episodes
    for index, start in itertools.product(range(len(configs)), range(0, number, _NUM_ENVS)):
        chosen = rows.iloc[index * number :][start : min(start + _NUM_ENVS, number)]
        try:
            yield from _replay(trial.job_id, configs[index], chosen)
        except ValueError as error:
            path = run.folder_of(trial) / "evaluation.csv"
            raise UserError(
                f"run folder is damaged: {path}: its actions cannot be played: {error}"
            ) from error


def _replay(trial: str, config: AnyConfig, rows: pd.DataFrame) -> Iterator[ReplayResult]:
    actions = [[parse_action(each) for each in row.split(" ")] for row in rows["actions"]]
    decisions = config.episode_steps
    if {len(episode) for episode in actions} != {decisions}:
        raise ValueError(f"there must be {decisions} in each row")
    seeds = [int(seed) for seed in rows["evaluation_seed"]]
    # A user's reward, dataset or layers must not change the replay of the next trial.
    with preserve_process_state():
        again = rollout(
            config, seeds, lambda _, step: np.stack([episode[step] for episode in actions])
        )
        is_own = isinstance(config, EnvConfig)
        allow_rounding = not is_own or config.make_reward().platform_dependent
    for stored, new in zip(rows.to_dict("records"), again, strict=True):
        statuses = {
            name: compare_values(stored[name], new[name], allow_rounding)
            for name in new
            if name in stored and name not in _INPUT_COLUMNS
        }
        worst = max(statuses, key=statuses.__getitem__)
        difference = ""
        if statuses[worst]:
            difference = f"{worst}: stored {stored[worst]}, now {new[worst]}"
        outputs = statuses.pop("output_norm")
        seed = int(stored["evaluation_seed"])
        yield ReplayResult(trial, seed, max(statuses.values()), outputs, difference)


def compare_values(stored: float, new: float, allow_rounding: bool) -> ReplayStatus:
    """Compare a number with the stored one, with or without a tolerance for rounding."""
    if stored == new:
        return ReplayStatus.BIT_EXACT
    close = math.isclose(stored, new, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return ReplayStatus.UP_TO_ROUNDING if close and allow_rounding else ReplayStatus.DIFFERENT
