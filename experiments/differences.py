"""Paired differences of returns: each learner against each policy that learns nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from .aggregates import ROUNDING
from .intervals import Floats, student_interval
from .row_groups import RANDOM, by_agent
from .rows import Rows

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
    interval is Student's, over these values. Resampling five of them or fewer would say less: the
    least likely resample of n values still has a probability of ``n**-n``.

    Args:
        rows: The comparison.
    """
    episodes = {
        key: table.pivot(index="training_seed", columns="evaluation_seed", values="return")
        for key, table in by_agent(rows, rows.episodes).items()
    }
    differences = []
    for key in itertools.product(rows.environments, rows.learners, rows.references):
        environment, learner, reference = key
        one, other = episodes.get((environment, learner)), episodes.get((environment, reference))
        if one is None or other is None:
            continue
        if reference != RANDOM:
            other = pd.DataFrame([other.mean()] * len(one), one.index)
        one, other = one.align(other, join="inner")
        values = (one - other).mean(axis=1).dropna().to_numpy(float)
        if len(values):
            low, high = (float(bound) for bound in student_interval(values))
            level = float(np.nanmean(other.to_numpy(float)))
            verdict = _verdict(values, level, low, high)
            mean = float(values.mean())
            differences.append(Difference(*key, mean, low, high, len(values), verdict))
    return differences


def _verdict(values: Floats, level: float, low: float, high: float) -> Verdict:
    if np.all(np.abs(values) <= ROUNDING * (1 + abs(level))):
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "open"
