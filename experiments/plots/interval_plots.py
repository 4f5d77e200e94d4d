"""What a comparison estimates, with intervals: scores over all environments, pairs, differences."""

from __future__ import annotations

import math
from typing import Any

from spangym.experiments.plots.estimates import PROBABILITY, Estimate, estimate_panel
from spangym.experiments.plots.panels import NothingToDraw, Panel, records
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.style import shortened

STATISTICS = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality gap": "Optimality gap, the lower the better",
}
_MOST = 10
"""Rows of a panel; more are hard to follow down to the axis."""


def aggregate_panels(results: Results) -> list[Panel]:
    """A panel for each statistic of the scores."""
    table = [
        row for row in records(results.statistics.aggregates) if not math.isnan(row["estimate"])
    ]
    agents = _shown(results, table)
    panels = []
    for statistic, title in STATISTICS.items():
        rows = [
            Estimate(row["agent"], results.look(row["agent"]), row["estimate"], *_bounds(row))
            for row in table
            if row["statistic"] == statistic and row["agent"] in agents
        ]
        if rows:
            panels.append(estimate_panel(title, rows, "score: random 0, oracle 1"))
    if not panels:
        raise NothingToDraw("there are no scores over all environments")
    return panels


def improvement_panels(results: Results) -> list[Panel]:
    """Panels of the pairs of agents, a few in each."""
    rows = [
        Estimate(
            f"{shortened(row['agent'], 22)} > {shortened(row['other'], 22)}",
            results.look(row["agent"]),
            row["probability"],
            *_bounds(row),
        )
        for row in records(results.statistics.improvement)
    ]
    if not rows:
        raise NothingToDraw("there are no two agents to compare over all environments")
    count = -(-len(rows) // _MOST)
    size = -(-len(rows) // count)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [
        estimate_panel(
            f"Probability of improvement, {number} of {count}" if count > 1 else "",
            part,
            PROBABILITY,
            0.5,
        )
        for number, part in enumerate(parts, start=1)
    ]


def difference_panels(results: Results) -> list[Panel]:
    """A panel for each environment: the learners' distances from its best fixed span."""
    table = records(results.statistics.differences)
    panels = []
    for environment in results.rows.environments:
        best = results.best_fixed(environment)
        rows = [
            Estimate(
                row["agent"],
                results.look(row["agent"]),
                row["difference"],
                *_bounds(row),
                settled=row["verdict"] != "open",
            )
            for row in table
            if (row["environment"], row["reference"]) == (environment, best)
        ]
        if rows:
            panels.append(estimate_panel(environment, rows, f"return, minus that of {best}", 0.0))
    if not panels:
        raise NothingToDraw("there is no learner with a fixed span to compare it with")
    return panels


def _bounds(row: dict[str, Any]) -> tuple[float, float]:
    return row["low"], row["high"]


def _shown(results: Results, table: list[dict[str, Any]]) -> list[str]:
    """The learners, and of the references those whose score is not given: the best fixed span."""
    fixed = [
        row for row in table if row["statistic"] == "iqm" and row["agent"] in results.rows.fixed
    ]
    best = [max(fixed, key=lambda row: row["estimate"])["agent"]] if fixed else []
    return [*results.rows.learners, "threshold", *best]
