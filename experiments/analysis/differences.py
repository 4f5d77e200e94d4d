"""Paired differences of returns: each learner against each non-learning baseline."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from spangym.experiments.analysis.aggregates import ROUNDING
from spangym.experiments.analysis.intervals import Floats, t_interval
from spangym.experiments.analysis.results import Results
from spangym.experiments.analysis.row_groups import RANDOM

Outcome = Literal["better", "worse", "equal", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """A learner's return minus a baseline's, in one environment.

    Attributes:
        environment: Label.
        agent: Label of the learner.
        baseline: Label.
        difference: Mean over training seeds.
        low: Lower bound of its 95 % interval; NaN for a single seed.
        high: Upper bound.
        seeds: How many training seeds.
        outcome: ``better`` or ``worse`` where the interval leaves 0 out, ``equal`` where no seed
            differs by more than rounding, else ``inconclusive``.
    """

    environment: str
    agent: str
    baseline: str
    difference: float
    low: float
    high: float
    seeds: int
    outcome: Outcome


def paired_differences(results: Results) -> list[Difference]:
    """The differences in each environment, in the order of the study.

    A value for each training seed: the mean, over the evaluation episodes that both played, of
    what the learner returned more. Random has training seeds, too, and is paired by them, since
    trials of one seed read the same streams; the other baselines are the same beside each. The
    interval is Student's, over these values. Resampling a few of them would say less: of four, the
    least likely resample still comes once in 256 times.

    Args:
        results: The comparison.
    """
    groups = dict(list(_by_seed(results).groupby(["environment", "agent", "baseline"])))
    differences = []
    for key in itertools.product(results.environments, results.learners, results.baselines):
        if key not in groups:
            continue
        values = groups[key]["difference"].to_numpy(float)
        baseline_mean = float(groups[key]["baseline_mean"].to_numpy(float).mean())
        low, high = (float(bound) for bound in t_interval(values))
        outcome = classify_difference(values, baseline_mean, low, high)
        mean = float(values.mean())
        differences.append(Difference(*key, mean, low, high, len(values), outcome))
    return differences


def _by_seed(results: Results) -> pd.DataFrame:
    """A row for each environment, ``agent``, ``baseline`` and training seed.

    Of the episodes that both played: the mean ``difference``, and the ``baseline_mean``.
    """
    episodes = results.episodes
    learners = episodes[episodes["agent"].isin(results.learners)]
    baselines = pd.DataFrame(episodes[episodes["agent"].isin(results.baselines)])
    baselines = baselines.rename(columns={"agent": "baseline", "return": "baseline_mean"})
    seeded = baselines["baseline"] == RANDOM
    one_episode = ["environment", "evaluation_seed"]
    pairs = pd.concat(
        [
            learners.merge(baselines[seeded], on=[*one_episode, "training_seed"]),
            learners.merge(baselines[~seeded].drop(columns="training_seed"), on=one_episode),
        ]
    )
    pairs["difference"] = pairs["return"] - pairs["baseline_mean"]
    key = ["environment", "agent", "baseline", "training_seed"]
    return pd.DataFrame(pairs.groupby(key)[["difference", "baseline_mean"]].mean()).reset_index()


def classify_difference(values: Floats, baseline_mean: float, low: float, high: float) -> Outcome:
    """What differences say, where more is better.

    Args:
        values: One for each training seed.
        baseline_mean: About how large is what was subtracted.
        low: Lower bound of the interval of their mean.
        high: Upper bound.
    """
    if np.all(np.abs(values) <= ROUNDING * (1 + abs(baseline_mean))):
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"
