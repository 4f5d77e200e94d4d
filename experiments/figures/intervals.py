"""Estimates with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from .panels import NothingToDraw, Panel, Results, name_axes, records
from .style import FAINT, INK, PAPER, REFERENCE, Look, shortened

STATISTICS = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality gap": "Optimality gap, the lower the better",
}
PROBABILITY = "probability"
_ROW, _FOOT = 38, 6
_MOST = 10
"""Rows of a panel; more are hard to follow down to the axis."""


@dataclass(frozen=True)
class Estimate:
    """A row of a panel.

    Attributes:
        label: What stands above it.
        look: Of its marker and line.
        value: The estimate.
        low: The interval's lower bound; NaN if there is none.
        high: The upper.
        settled: Whether the marker is filled.
    """

    label: str
    look: Look
    value: float
    low: float
    high: float
    settled: bool = True


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
            panels.append(_panel(title, rows, "score: random 0, oracle 1"))
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
        _panel(
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
            panels.append(_panel(environment, rows, f"return, minus that of {best}", 0.0))
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


def _panel(title: str, rows: Sequence[Estimate], x: str, line: float | None = None) -> Panel:
    height = len(rows) * _ROW + _FOOT + 4 + Panel.bottom
    return Panel(title, partial(_draw, rows, x, line), height, left=4, right=14, top=4)


def _draw(rows: Sequence[Estimate], x: str, line: float | None, axes: Axes) -> None:
    if line is not None:
        axes.axvline(line, color=INK, linewidth=0.9)
    for position, row in enumerate(rows):
        place = position * _ROW + 27
        colour = row.look.colour
        if not math.isnan(row.low + row.high):
            axes.plot([row.low, row.high], [place] * 2, color=colour, linewidth=2.2)
        axes.plot(
            [row.value],
            [place],
            color=colour,
            marker=row.look.marker,
            markersize=6.5,
            markerfacecolor=colour if row.settled else PAPER,
            linestyle="none",
        )
        axes.annotate(
            shortened(row.label, 48),
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(0, 10),
            textcoords="offset points",
            color=FAINT if row.look.line == REFERENCE.line else INK,
        )
    axes.set_ylim(len(rows) * _ROW + _FOOT, 0)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    name_axes(axes, x)
    if x == PROBABILITY:
        axes.set_xlim(-0.02, 1.02)
