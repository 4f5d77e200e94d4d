"""What a comparison estimates, with intervals: scores over all environments, pairs, differences."""

from __future__ import annotations

import math
from typing import Any

from spangym.experiments.plots.estimates import PROBABILITY, Estimate, plot_estimates
from spangym.experiments.plots.panels import NoData, Panel, to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import truncate_middle

STATISTICS = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality gap": "Optimality gap, the lower the better",
}
_MOST = 10
"""Rows of a panel; more are hard to follow down to the axis."""


def plot_aggregates(data: PlotData) -> list[Panel]:
    """A panel for each statistic of the scores."""
    table = [
        row for row in to_records(data.statistics.aggregates) if not math.isnan(row["estimate"])
    ]
    agents = _shown(data, table)
    panels = []
    for statistic, title in STATISTICS.items():
        rows = [
            Estimate(row["group"], data.line_style(row["group"]), row["estimate"], *_bounds(row))
            for row in table
            if row["statistic"] == statistic and row["group"] in agents
        ]
        if rows:
            panels.append(plot_estimates(title, rows, "score: random 0, oracle 1"))
    if not panels:
        raise NoData("there are no scores over all environments")
    return panels


def plot_probability_of_improvement(data: PlotData) -> list[Panel]:
    """Panels of the pairs of agents, a few in each."""
    rows = [
        Estimate(
            f"{truncate_middle(row['group'], 22)} > {truncate_middle(row['other'], 22)}",
            data.line_style(row["group"]),
            row["probability"],
            *_bounds(row),
        )
        for row in to_records(data.statistics.probability_of_improvement)
    ]
    if not rows:
        raise NoData("there are no two agents to compare over all environments")
    count = -(-len(rows) // _MOST)
    size = -(-len(rows) // count)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [
        plot_estimates(
            f"Probability of improvement, {number} of {count}" if count > 1 else "",
            part,
            PROBABILITY,
            0.5,
        )
        for number, part in enumerate(parts, start=1)
    ]


def plot_differences(data: PlotData) -> list[Panel]:
    """A panel for each environment: the learners' distances from its best fixed span."""
    table = to_records(data.statistics.differences)
    panels = []
    for environment in data.results.environments:
        best = data.best_fixed(environment)
        rows = [
            Estimate(
                row["group"],
                data.line_style(row["group"]),
                row["difference"],
                *_bounds(row),
                settled=row["outcome"] != "inconclusive",
            )
            for row in table
            if (row["environment"], row["baseline"]) == (environment, best)
        ]
        if rows:
            panels.append(plot_estimates(environment, rows, f"return, minus that of {best}", 0.0))
    if not panels:
        raise NoData("there is no learner with a fixed span to compare it with")
    return panels


def _bounds(row: dict[str, Any]) -> tuple[float, float]:
    return row["low"], row["high"]


def _shown(data: PlotData, table: list[dict[str, Any]]) -> list[str]:
    """The learners, and of the baselines those whose score is not given: the best fixed span."""
    fixed = [
        row
        for row in table
        if row["statistic"] == "iqm" and row["group"] in data.results.fixed_span_agents
    ]
    best = [max(fixed, key=lambda row: row["estimate"])["group"]] if fixed else []
    return [*data.results.learners, "threshold", *best]
