"""How each agent fared in each environment."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from spangym.experiments.analysis.intervals import t_interval
from spangym.experiments.analysis.results import Results
from spangym.experiments.analysis.row_groups import RANDOM, by_agent
from spangym.experiments.analysis.sample_efficiency import area_under_curve, sample_efficiency

_MEANS = ["return", "score", "regret", "mean_span", "qk_pairs"]
_MEANS += ["full_qk_pairs", "seconds", "steps"]
_COLUMNS = ["environment", "agent", "return", "low", "high", "score", "score_low", "score_high"]
_COLUMNS += [*_MEANS[2:], "seeds", "area", "efficiency"]


def per_agent_summary(results: Results) -> pd.DataFrame:
    """Means over training seeds, as `ComparisonStats.summaries` has them; intervals by Student's t.

    Args:
        results: The comparison.
    """
    trials = by_agent(results, results.trials)
    curves = by_agent(results, results.curves)
    table = []
    for (environment, agent), group in trials.items():
        low, high = t_interval(group["return"].to_numpy(float))
        score_low, score_high = t_interval(group["score"].to_numpy(float))
        random = trials.get((environment, RANDOM))
        start = math.nan if random is None else float(random["return"].to_numpy(float).mean())
        area, efficiency = _learning_speed(curves.get((environment, agent)), start)
        table.append(
            {
                "environment": environment,
                "agent": agent,
                **group[_MEANS].mean().to_dict(),
                "low": float(low),
                "high": float(high),
                "score_low": float(score_low),
                "score_high": float(score_high),
                "seeds": len(group),
                "area": area,
                "efficiency": efficiency,
            }
        )
    places = {label: place for place, label in enumerate(results.environments)}
    table.sort(key=lambda row: (places[row["environment"]], -row["return"]))
    return pd.DataFrame(table, columns=_COLUMNS)


def _learning_speed(curves: pd.DataFrame | None, start: float) -> tuple[float, float]:
    """Mean area and median efficiency over training seeds."""
    if curves is None:
        return math.nan, math.nan
    seeds = [
        (curve["step"].to_numpy(float), curve["return"].to_numpy(float))
        for _, curve in curves.groupby("training_seed")
    ]
    area = float(np.mean([area_under_curve(*seed) for seed in seeds]))
    # A mean would leave out those that never got there, and be too short.
    whens = [sample_efficiency(*seed, start) for seed in seeds]
    when = float(np.median([math.inf if math.isnan(each) else each for each in whens]))
    return area, when if math.isfinite(when) else math.nan
