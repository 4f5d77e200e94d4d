"""Statistics of a comparison or a pilot: means, differences, aggregates, all with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from spangym.experiments.analysis import aggregates
from spangym.experiments.analysis.differences import paired_differences
from spangym.experiments.analysis.intervals import (
    RESAMPLES,
    Floats,
    Strata,
    bootstrap_ci,
    bootstrap_ci_proportion,
    t_interval,
)
from spangym.experiments.analysis.results import MetricInfo, Results
from spangym.experiments.analysis.separation import rank_correlations, separations

BEST_FIXED = "best fixed"
"""Stands for the fixed span with the highest return in each environment."""

THRESHOLDS = np.linspace(0, 1, 101)
"""Thresholds of the performance profile, as scores."""

STATISTICS = {
    "iqm": aggregates.interquartile_mean,
    "median": aggregates.median,
    "mean": aggregates.mean,
    "optimality gap": aggregates.optimality_gap,
}


class MeanCI(NamedTuple):
    """Mean over training seeds with its 95 % interval; NaN where it is not known."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0


@dataclass(frozen=True)
class ComparisonStats:
    """Statistics of the results; ``low`` and ``high`` are the bounds of a 95 % interval.

    The training seed is the unit of replication: episodes are averaged within it first. Bounds are
    NaN for a single seed and deterministic baselines, and for proportions of 0 or 1.

    Attributes:
        summary: Mean of each metric, one row for each environment, group, split and metric:
            ``environment``, ``group``, ``split``, ``metric``, ``mean``, ``low``, ``high``, ``n``
            (training seeds). Intervals are Student's t.
        differences: Paired differences of the primary metric from each baseline (``pairing`` is
            ``baseline``) and of `Results.pairs`, with the columns of `paired_differences`.
        by_action: Mean of each metric with the same action in every layer: the columns of
            ``summary`` and ``action``.
        aggregates: Scores over all environments, one row for each group and statistic: ``group``,
            ``statistic`` (``iqm``, ``median``, ``mean``, ``optimality gap``), ``estimate``,
            ``low``, ``high``. Groups without a score in every environment are left out.
        probability_of_improvement: Probability that a run of one group has a higher return than a
            run of another, over all environments, for each pair of learners and each learner with
            the best fixed span: ``group``, ``other``, ``probability``, ``low``, ``high``.
        profiles: Proportion of runs over all environments with a score above a threshold, of the
            learners and the best fixed span: ``group``, ``threshold``, ``share``, ``low``,
            ``high``.
        separations: The two learners that each environment tells apart
            (`spangym.experiments.analysis.separation.separations`); empty for one environment.
        rank_correlations: How alike two environments rank the learners
            (`spangym.experiments.analysis.separation.rank_correlations`).
        best_fixed: The fixed span with the highest return, by environment.
    """

    summary: pd.DataFrame
    differences: pd.DataFrame
    by_action: pd.DataFrame
    aggregates: pd.DataFrame
    probability_of_improvement: pd.DataFrame
    profiles: pd.DataFrame
    separations: pd.DataFrame
    rank_correlations: pd.DataFrame
    best_fixed: Mapping[str, str]

    def estimate(self, environment: str, group: str, metric: str, split: str) -> MeanCI:
        """Mean of a metric; NaN if there is none."""
        return self._estimates.get((environment, group, split, metric), MeanCI())

    @cached_property
    def _estimates(self) -> dict[tuple[str, ...], MeanCI]:
        rows = self.summary.itertuples(index=False, name=None)
        return {row[:4]: MeanCI(*row[4:]) for row in rows}


def compute_statistics(
    results: Results, generator: np.random.Generator, resamples: int = RESAMPLES
) -> ComparisonStats:
    """Compute all statistics. Those over several environments are empty for a pilot.

    Args:
        results: Results of a comparison or a pilot.
        generator: Draws the resamples; the same state gives the same statistics.
        resamples: Number of resamples of each statistic over several environments.
    """
    summary = _means(results, results.values, ["environment", "group", "split", "metric"])
    best = best_fixed_spans(results, summary)
    scores, returns = _strata(results, "score", best), _strata(results, "return", best)
    with_baselines = [*itertools.product(results.learners, results.baselines)]
    by_action = ["environment", "group", "split", "metric", "action"]
    return ComparisonStats(
        summary=summary,
        differences=paired_differences(results, {"baseline": with_baselines, **results.pairs}),
        by_action=_means(results, results.action_values, by_action),
        aggregates=_aggregates(results, scores, generator, resamples),
        probability_of_improvement=_probability_of_improvement(
            results, returns, generator, resamples
        ),
        profiles=_profiles(results, scores, generator, resamples),
        separations=separations(results, summary),
        rank_correlations=rank_correlations(results, summary),
        best_fixed=best,
    )


def _means(results: Results, table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over training seeds for each combination of the keys, in the order of the study."""
    columns = [*keys, *MeanCI._fields]
    if not len(table):
        return pd.DataFrame(columns=columns)
    by_key: dict[Any, Any] = dict(list(table.groupby(keys)["value"]))
    rows: list[tuple[Any, ...]] = [
        (*key, *_mean_ci(values.to_numpy(float), results.metrics[key[3]]))
        for key, values in by_key.items()
    ]
    order = {
        name: index
        for names in (results.environments, results.groups, results.splits, results.metrics)
        for index, name in enumerate(names)
    }
    rows.sort(key=lambda row: [order.get(each, len(order)) for each in row[:4]])
    return pd.DataFrame(rows, columns=columns)


def _mean_ci(values: Floats, info: MetricInfo) -> MeanCI:
    if info.average == "median":
        # A mean would leave out the seeds without a value, and be too optimistic.
        median = float(np.median(np.where(np.isnan(values), np.inf, values)))
        return MeanCI(median if math.isfinite(median) else math.nan, n=len(values))
    known = values[~np.isnan(values)]
    if not len(known):
        return MeanCI()
    low, high = t_interval(known)
    return MeanCI(float(known.mean()), float(low), float(high), len(known))


def best_fixed_spans(results: Results, summary: pd.DataFrame) -> dict[str, str]:
    """Return the fixed span of the highest return, by environment."""
    is_fixed = summary["group"].isin(results.fixed_span_agents)
    fixed = pd.DataFrame(summary[(summary["metric"] == results.primary) & is_fixed])
    ranked = fixed.dropna(subset="mean").sort_values("mean", ascending=False, kind="stable")
    best = ranked.drop_duplicates("environment")
    return dict(zip(best["environment"], best["group"], strict=True))


def _strata(results: Results, metric: str, best: Mapping[str, str]) -> dict[str, Strata]:
    """Values by environment, of the groups that have one for every job in each environment."""
    table = results.values[results.values["metric"] == metric]
    values = {
        key: rows.to_numpy(float) for key, rows in table.groupby(["environment", "group"])["value"]
    }
    names = {group: dict.fromkeys(results.environments, group) for group in results.groups}
    strata = {}
    for group, by_environment in (names | {BEST_FIXED: dict(best)}).items():
        keys = [(each, by_environment.get(each, "")) for each in results.environments]
        found = [values[key] for key in keys if key in values]
        if len(found) == len(keys) > 0 and all(np.isfinite(each).all() for each in found):
            strata[group] = found
    return strata


def _aggregates(
    results: Results, scores: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    rows = [
        (group, name, float(statistic(scores[group])), *map(float, bounds))
        for group in results.groups
        if group in scores
        for name, statistic in STATISTICS.items()
        for bounds in [bootstrap_ci(statistic, scores[group], generator, resamples)]
    ]
    return pd.DataFrame(rows, columns=["group", "statistic", "estimate", "low", "high"])


def _probability_of_improvement(
    results: Results, returns: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    pairs = [
        *itertools.combinations(results.learners, 2),
        *((learner, BEST_FIXED) for learner in results.learners),
    ]
    rows = []
    for group, other in pairs:
        if group not in returns or other not in returns:
            continue
        if other == BEST_FIXED:
            # It is deterministic: only the learner's seeds are resampled.
            strata = returns[group]
            statistic = partial(aggregates.probability_of_improvement, second=returns[other])
        else:
            strata = [*returns[group], *returns[other]]
            statistic = _first_half_over_second
        bounds = bootstrap_ci_proportion(statistic, strata, generator, resamples)
        rows.append((group, other, float(statistic(strata)), *map(float, bounds)))
    return pd.DataFrame(rows, columns=["group", "other", "probability", "low", "high"])


def _first_half_over_second(strata: Strata) -> Floats:
    half = len(strata) // 2
    return aggregates.probability_of_improvement(strata[:half], strata[half:])


def _profiles(
    results: Results, scores: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    rows = []
    for group in (*results.learners, BEST_FIXED):
        if group in scores:
            above = aggregates.runs_above(scores[group], THRESHOLDS)
            share = aggregates.mean(above)
            bounds = bootstrap_ci_proportion(aggregates.mean, above, generator, resamples)
            rows += [(group, *row) for row in zip(THRESHOLDS, share, *bounds, strict=True)]
    return pd.DataFrame(rows, columns=["group", "threshold", "share", "low", "high"])
