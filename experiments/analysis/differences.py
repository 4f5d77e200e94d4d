"""Paired differences of returns: each learner against each policy that learns nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from spangym.experiments.analysis.aggregates import ROUNDING
from spangym.experiments.analysis.intervals import Floats, student_interval
from spangym.experiments.analysis.results import Rows
from spangym.experiments.analysis.row_groups import RANDOM

Verdict = Literal["better", "worse", "equal", "open"]


@dataclass(frozen=True)
class Difference:
    """A learner's return minus a reference's, in one environment.

    Attributes:
        environment: Label.
        agent: Label of the learner.
        reference: Label.
        difference: Mean over training seeds.
        low: Lower bound of its 95 % interval; NaN for a single seed.
        high: Upper bound.
        seeds: How many training seeds.
        verdict: ``better`` or ``worse`` where the interval leaves 0 out, ``equal`` where no seed
            differs by more than rounding, else ``open``.
    """

    environment: str
    agent: str
    reference: str
    difference: float
    low: float
    high: float
    seeds: int
    verdict: Verdict


def paired_differences(rows: Rows) -> list[Difference]:
    """The differences in each environment, in the order of the study.

    A value for each training seed: the mean, over the evaluation episodes that both played, of
    what the learner returned more. Random has training seeds, too, and is paired by them, since
    trials of one seed read the same streams; the other references are the same beside each. The
    interval is Student's, over these values. Resampling a few of them would say less: of four, the
    least likely resample still comes once in 256 times.

    Args:
        rows: The comparison.
    """
    groups = dict(list(_by_seed(rows).groupby(["environment", "agent", "reference"])))
    differences = []
    for key in itertools.product(rows.environments, rows.learners, rows.references):
        if key not in groups:
            continue
        values = groups[key]["difference"].to_numpy(float)
        level = float(groups[key]["level"].to_numpy(float).mean())
        low, high = (float(bound) for bound in student_interval(values))
        verdict = judge(values, level, low, high)
        mean = float(values.mean())
        differences.append(Difference(*key, mean, low, high, len(values), verdict))
    return differences


def _by_seed(rows: Rows) -> pd.DataFrame:
    """A row for each environment, ``agent``, ``reference`` and training seed.

    Of the episodes that both played: the mean ``difference``, and the reference's mean ``level``.
    """
    episodes = rows.episodes
    learners = episodes[episodes["agent"].isin(rows.learners)]
    references = pd.DataFrame(episodes[episodes["agent"].isin(rows.references)])
    references = references.rename(columns={"agent": "reference", "return": "level"})
    seeded = references["reference"] == RANDOM
    one_episode = ["environment", "evaluation_seed"]
    pairs = pd.concat(
        [
            learners.merge(references[seeded], on=[*one_episode, "training_seed"]),
            learners.merge(references[~seeded].drop(columns="training_seed"), on=one_episode),
        ]
    )
    pairs["difference"] = pairs["return"] - pairs["level"]
    key = ["environment", "agent", "reference", "training_seed"]
    return pd.DataFrame(pairs.groupby(key)[["difference", "level"]].mean()).reset_index()


def judge(values: Floats, level: float, low: float, high: float) -> Verdict:
    """What differences say, where more is better.

    Args:
        values: One for each training seed.
        level: About how large is what was subtracted.
        low: Lower bound of the interval of their mean.
        high: Upper bound.
    """
    if np.all(np.abs(values) <= ROUNDING * (1 + abs(level))):
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "open"
