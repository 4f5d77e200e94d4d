"""Paired differences of the primary metric: same training seeds, same evaluation episodes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from spangym.experiments.analysis.aggregates import ROUNDING
from spangym.experiments.analysis.intervals import Floats, t_interval
from spangym.experiments.analysis.results import EVALUATION, Results

Outcome = Literal["better", "worse", "equal", "inconclusive"]
COLUMNS = (
    *("pairing", "environment", "group", "baseline", "split"),
    *("difference", "low", "high", "n", "outcome"),
)
RANDOM = "random"
"""The only non-learning baseline that is run with every training seed."""


def paired_differences(
    results: Results, pairings: Mapping[str, Sequence[tuple[str, str]]]
) -> pd.DataFrame:
    """Compute the differences between pairs of groups in each environment and split.

    Each training seed gives one value: the mean difference over the evaluation episodes of both
    groups. Groups are paired by training seed, except that a deterministic baseline, which is run
    once, is paired with every seed. The interval is Student's t over these values; with a few seeds
    a bootstrap has too few distinct resamples for the tails.

    Args:
        results: The results.
        pairings: Pairs of group and baseline, by the name of the comparison; pairs without a common
            seed are left out.

    Returns:
        One row for each pairing, environment, pair and split, with the columns of `COLUMNS`:
        ``difference`` is the group's value minus the baseline's, ``low`` and ``high`` are the
        bounds of its 95 % interval (NaN for a single seed), ``n`` the number of training seeds,
        ``outcome`` the result of `classify_difference`.
    """
    units = dict(list(_evaluation_units(results).groupby(["environment", "group", "split"])))
    info, rows = results.metrics[results.primary], []
    triples = [(name, *pair) for name, pairs in pairings.items() for pair in pairs]
    for environment, (pairing, group, baseline), split in itertools.product(
        results.environments, triples, results.splits
    ):
        own = units.get((environment, group, split))
        other = units.get((environment, baseline, split))
        if own is None or other is None:
            continue
        run_once = results.study_type == "comparison" and baseline in results.baselines
        run_once = run_once and baseline != RANDOM
        keys = ["evaluation_seed"] if run_once else ["seed", "evaluation_seed"]
        # Missing where episodes do not draw it.
        keys += ["cost_coef"] if "cost_coef" in own else []
        both = own.merge(other[[*keys, "value"]], on=keys, suffixes=("", "_baseline"))
        both["difference"] = both["value"] - both["value_baseline"]
        means = pd.DataFrame(both.groupby("seed")[["difference", "value_baseline"]].mean()).dropna()
        if not len(means):
            continue
        values = means["difference"].to_numpy(float)
        level = float(means["value_baseline"].to_numpy(float).mean())
        low, high = (float(bound) for bound in t_interval(values))
        gains = (values, low, high) if info.higher_is_better else (-values, -high, -low)
        outcome = classify_difference(*gains, level)
        names = pairing, environment, group, baseline, split
        rows.append((*names, float(values.mean()), low, high, len(values), outcome))
    return pd.DataFrame(rows, columns=[*COLUMNS])


def classify_difference(values: Floats, low: float, high: float, level: float) -> Outcome:
    """Classify a difference of which higher is better.

    Args:
        values: Difference for each training seed, shape (seeds,).
        low: Lower bound of the interval of their mean; NaN for a single seed.
        high: Upper bound.
        level: Mean of the baseline, the scale of rounding errors.

    Returns:
        ``equal`` if no seed differs by more than rounding, ``better`` or ``worse`` if the interval
        excludes 0, else ``inconclusive``.
    """
    if np.all(np.abs(values) <= ROUNDING * (1 + abs(level))):
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"


def _evaluation_units(results: Results) -> pd.DataFrame:
    """One row for each group, training seed and evaluation episode; a pilot has one per split."""
    if results.study_type == "comparison":
        units = results.episodes.rename(columns={results.primary: "value"})
        return units.assign(split=EVALUATION)
    values = results.values
    is_unit = (values["metric"] == results.primary) & values["split"].isin(results.splits)
    return values[is_unit].assign(evaluation_seed=0)
