"""Estimates with 95 % intervals, one row each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from spangym.experiments.analysis.results import ALL_SPLITS
from spangym.experiments.plots.panels import NoData, Panel, label_axes, to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import (
    BASELINE_STYLE,
    BG,
    FG,
    MUTED,
    LineStyle,
    truncate_middle,
)

STATISTICS = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality gap": "Optimality gap (lower is better)",
}
MAX_ROWS = 10
"""Rows of a panel; more are hard to follow down to the axis."""
_ROW, _FOOT = 38, 6


@dataclass(frozen=True)
class Estimate:
    """A row of a panel: a label above a marker with its interval; without one, bounds are NaN.

    Hollow markers are inconclusive.
    """

    label: str
    style: LineStyle
    value: float
    low: float
    high: float
    is_filled: bool = True


def plot_aggregates(data: PlotData) -> list[Panel]:
    """Plot aggregate scores of the learners, the threshold and the best fixed span."""
    table = to_records(data.statistics.aggregates.dropna(subset="estimate"))
    iqm = {row["group"]: row["estimate"] for row in table if row["statistic"] == "iqm"}
    fixed = [group for group in data.results.fixed_span_agents if group in iqm]
    shown = [*data.results.learners, "threshold", *sorted(fixed, key=iqm.__getitem__)[-1:]]
    panels = []
    for statistic, title in STATISTICS.items():
        rows = [
            _estimate(data, row, "estimate")
            for row in table
            if row["statistic"] == statistic and row["group"] in shown
        ]
        if rows:
            panels.append(plot_estimates(title, rows, "score: random 0, oracle 1"))
    if not panels:
        raise NoData("no agent has a score in every environment")
    return panels


def plot_probability_of_improvement(data: PlotData) -> list[Panel]:
    """Plot the probability of improvement of all pairs, at most `MAX_ROWS` in each panel."""
    rows = [
        _estimate(
            data,
            row,
            "probability",
            f"{truncate_middle(row['group'], 22)} > {truncate_middle(row['other'], 22)}",
        )
        for row in to_records(data.statistics.probability_of_improvement)
    ]
    if not rows:
        raise NoData("no two agents ran in all environments")
    count = math.ceil(len(rows) / MAX_ROWS)
    size = math.ceil(len(rows) / count)
    return [
        plot_estimates(
            f"Probability of improvement, {number} of {count}" if count > 1 else "",
            rows[(number - 1) * size : number * size],
            "probability",
            0.5,
            (-0.02, 1.02),
        )
        for number in range(1, count + 1)
    ]


def plot_differences(data: PlotData) -> list[Panel]:
    """Plot differences from the best fixed span, or from the baseline of a pilot."""
    panels = []
    for environment, split in itertools.product(data.results.environments, data.results.splits):
        baseline = data.results.baselines[0] if data.is_pilot else data.best_fixed(environment)
        rows = _differences(
            data, pairing="baseline", environment=environment, split=split, baseline=baseline
        )
        title = data.split_label(split) if data.is_pilot else environment
        if rows:
            x = f"{data.metric.title or data.metric.label} minus that of {baseline}{_unit(data)}"
            panels.append(plot_estimates(title, rows, x, 0.0))
    if not panels:
        raise NoData("no group shares a training seed with the baseline")
    return panels


def plot_temperature_laws(data: PlotData) -> list[Panel]:
    """Plot differences between variants that differ in their temperature law alone."""
    panels = []
    for group, other in data.results.pairs.get("temperature law", ()):
        rows = _differences(data, pairing="temperature law", group=group, baseline=other)
        if rows:
            x = f"difference{_unit(data)}; left of 0: the first is better"
            panels.append(plot_estimates(f"{group} minus {other}", rows, x, 0.0))
    if not panels:
        raise NoData("no two variants that differ in their temperature law share a training seed")
    return panels


def plot_runtime(data: PlotData) -> list[Panel]:
    """Plot the time of an update and of a training, with the ratio to the pilot's baseline."""
    panels = []
    for environment, metric in itertools.product(
        data.results.environments, ("milliseconds", "seconds")
    ):
        split = ALL_SPLITS if data.is_pilot else data.results.splits[0]
        rows = []
        for group, _ in data.legend():
            found = data.statistics.estimate(environment, group, metric, split)
            ratio = data.statistics.estimate(environment, group, "time_ratio", split).mean
            label = group
            if metric == "milliseconds" and not math.isnan(ratio):
                label = f"{truncate_middle(group, 38)}, {ratio:.2f} times"
            if not math.isnan(found.mean):
                rows.append(Estimate(label, data.line_style(group), *found[:3]))
        if rows:
            x = data.results.metrics[metric].label
            title = f"{x[0].upper()}{x[1:]}" if data.is_pilot else environment
            panels.append(plot_estimates(title, rows, x, xlim=(0, None)))
    if not panels:
        raise NoData("no job is finished")
    return panels


def plot_estimates(
    title: str,
    rows: Sequence[Estimate],
    x: str,
    line: float | None = None,
    xlim: tuple[float | None, float | None] = (None, None),
) -> Panel:
    """Make a panel of one or more estimates, with a vertical line at a position."""
    height = len(rows) * _ROW + _FOOT + 4 + Panel.bottom
    return Panel(title, partial(_draw, rows, x, line, xlim), height, left=4, right=14, top=4)


def _estimate(
    data: PlotData, row: dict[str, Any], column: str, label: str = "", scale: float = 1.0
) -> Estimate:
    return Estimate(
        label or row["group"],
        data.line_style(row["group"]),
        *(scale * row[name] for name in (column, "low", "high")),
        is_filled=row.get("outcome") != "inconclusive",
    )


def _differences(data: PlotData, **keys: str | None) -> list[Estimate]:
    """Rows of `ComparisonStats.differences`, labeled by group, or by split for a given group."""
    return [
        _estimate(
            data,
            row,
            "difference",
            data.split_label(row["split"]) if "group" in keys else row["group"],
            data.metric.scale,
        )
        for row in to_records(data.statistics.differences)
        if all(row[column] == value for column, value in keys.items())
    ]


def _unit(data: PlotData) -> str:
    unit = data.metric.difference_unit or data.metric.unit
    return f", {unit}" if unit else ""


def _draw(
    rows: Sequence[Estimate],
    x: str,
    line: float | None,
    xlim: tuple[float | None, float | None],
    axes: Axes,
) -> None:
    if line is not None:
        axes.axvline(line, color=FG, linewidth=0.9)
    for index, row in enumerate(rows):
        y, color = index * _ROW + 27, row.style.color
        if not math.isnan(row.low + row.high):
            axes.plot([row.low, row.high], [y, y], color=color, linewidth=2.2)
        axes.plot(
            [row.value],
            [y],
            color=color,
            marker=row.style.marker,
            markersize=6.5,
            markerfacecolor=color if row.is_filled else BG,
            linestyle="none",
        )
        axes.annotate(
            truncate_middle(row.label, 48),
            (0, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 10),
            textcoords="offset points",
            color=MUTED if row.style.linestyle == BASELINE_STYLE.linestyle else FG,
        )
    axes.set_ylim(len(rows) * _ROW + _FOOT, 0)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    label_axes(axes, x)
    axes.set_xlim(*xlim)
