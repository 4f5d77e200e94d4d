"""What separates agents: where they differ, and how differently environments rank them.

A suite is worth its environments only if different agents fail in different ones
(bsuite, Osband et al. 2020): environments that rank all agents alike could be one.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from spangym.experiments.analysis.differences import paired_differences
from spangym.experiments.analysis.results import Results

SEPARATION_COLUMNS = ("environment", "group", "other", "difference", "low", "high", "elsewhere")
RANKING_COLUMNS = ("environment", "other", "tau")


def separations(results: Results, summary: pd.DataFrame) -> pd.DataFrame:
    """Find for each environment the two learners that it, more than the others, tells apart.

    Of all pairs of learners whose paired difference has an interval that excludes 0, it is the one
    whose difference exceeds that of the same pair, in the mean over the other environments, most.

    Args:
        results: Results of a comparison.
        summary: Means of each metric (`ComparisonStats.summary`).

    Returns:
        One row for each environment with such a pair: ``group`` scores higher than ``other``, by
        ``difference`` with the bounds ``low`` and ``high`` of its 95 % interval, and by
        ``elsewhere`` in the mean over the other environments that have both (NaN without one).
        All are scores.
    """
    if results.study_type != "comparison" or len(results.environments) < 2:
        return pd.DataFrame(columns=[*SEPARATION_COLUMNS])
    scales = _score_scales(summary)
    pairs = [*itertools.permutations(results.learners, 2)]
    table = paired_differences(results, {"learners": pairs})
    scored = {
        (row["environment"], row["group"], row["baseline"]): row
        | {each: row[each] / scales[row["environment"]] for each in ("difference", "low", "high")}
        for row in table.to_dict("records")
        if row["environment"] in scales
    }
    rows = []
    for environment in results.environments:
        candidates = []
        for pair in pairs:
            own = scored.get((environment, *pair))
            if own is None or own["outcome"] != "better":
                continue
            others = [
                scored[each, *pair]["difference"]
                for each in results.environments
                if each != environment and (each, *pair) in scored
            ]
            elsewhere = float(np.mean(others)) if others else np.nan
            excess = own["difference"] - (elsewhere if others else 0.0)
            bounds = (own[each] for each in ("difference", "low", "high"))
            candidates.append((excess, (environment, *pair, *bounds, elsewhere)))
        if candidates:
            rows.append(max(candidates, key=lambda each: each[0])[1])
    return pd.DataFrame(rows, columns=[*SEPARATION_COLUMNS])


def rank_correlations(results: Results, summary: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the scores of the learners in each pair of environments.

    Args:
        results: Results of a comparison.
        summary: Means of each metric (`ComparisonStats.summary`).

    Returns:
        One row for each pair of environments that share at least two learners with scores:
        ``environment``, ``other``, ``tau`` in [-1, 1]; NaN if an environment scores all alike.
    """
    rows = []
    scores = {each: _scores(results, summary, each) for each in results.environments}
    for one, other in itertools.combinations(results.environments, 2):
        both = [group for group in scores[one] if group in scores[other]]
        if len(both) < 2:
            continue
        found: Any = kendalltau(*([scores[each][group] for group in both] for each in (one, other)))
        rows.append((one, other, float(found.statistic)))
    return pd.DataFrame(rows, columns=[*RANKING_COLUMNS])


def _scores(results: Results, summary: pd.DataFrame, environment: str) -> dict[str, float]:
    """Mean scores of the learners."""
    own = summary[(summary["environment"] == environment) & (summary["metric"] == "score")]
    found = dict(zip(own["group"], own["mean"], strict=True))
    return {
        each: found[each] for each in results.learners if each in found and np.isfinite(found[each])
    }


def _score_scales(summary: pd.DataFrame) -> dict[str, float]:
    """Return of the oracle minus that of random, which is the unit of a score, by environment."""
    own = summary[summary["metric"] == "return"]
    keys = zip(own["environment"], own["group"], strict=True)
    means = dict(zip(keys, own["mean"].astype(float), strict=True))
    spans = {
        environment: means.get((environment, "oracle"), np.nan)
        - means.get((environment, "random"), np.nan)
        for environment in dict.fromkeys(own["environment"])
    }
    return {environment: span for environment, span in spans.items() if span > 0}
