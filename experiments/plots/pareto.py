"""Quality vs. compute: the primary metric against query-key pairs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from spangym.experiments.analysis.comparison_stats import MeanCI
from spangym.experiments.analysis.intervals import Floats
from spangym.experiments.analysis.results import ALL_SPLITS
from spangym.experiments.plots.labels import free_offsets
from spangym.experiments.plots.learning_curves import log_scale
from spangym.experiments.plots.panels import WIDTH, NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import BG, FG, MUTED, SMALL

FLOOR = 0.25
"""Returns further below random than this, as a fraction of the range from random to the best, are
drawn at the lower edge: they would leave no space for the others."""
PARETO_LINE = "Pareto front"
Point = tuple[float, float]


def plot_pareto(data: PlotData) -> list[Panel]:
    """Plot one panel for each environment and evaluation split."""
    statistics, results = data.statistics, data.results
    metric, cost_split = ("qk_share", ALL_SPLITS) if data.is_pilot else ("qk_pairs", "evaluation")
    panels = []
    for environment, split in itertools.product(results.environments, results.splits):
        points = {}
        for group in results.groups:
            cost = statistics.estimate(environment, group, metric, cost_split).mean
            level = statistics.estimate(environment, group, results.primary, split)
            if np.isfinite(cost + level.mean):
                scale = data.metric.scale
                scaled = MeanCI(scale * level.mean, scale * level.low, scale * level.high, level.n)
                points[group] = (results.metrics[metric].scale * cost, scaled)
        if points:
            title = (
                f"{data.metric.label}, {data.split_label(split)}" if data.is_pilot else environment
            )
            draw = partial(_draw, data, results.metrics[metric].label, points)
            panels.append(Panel(title, draw))
    if not panels:
        raise NoData("no job is finished")
    return panels


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Groups that no other one beats at the same or a lower cost, the cheapest first.

    Example:
        >>> pareto_front({"a": (1, 1), "b": (2, 1), "c": (3, 4), "d": (3, 2)})
        ['a', 'c']
    """
    front: list[str] = []
    for group in sorted(points, key=lambda each: (points[each][0], -points[each][1])):
        if not front or points[group][1] > points[front[-1]][1]:
            front.append(group)
    return front


def _draw(data: PlotData, x: str, points: Mapping[str, tuple[float, MeanCI]], axes: Axes) -> None:
    levels = {group: level.mean for group, (_, level) in points.items()}
    sign = 1 if data.metric.higher_is_better else -1
    # The oracle looks ahead, which no usable policy can do.
    usable = {group: cost for group, (cost, _) in points.items() if group != "oracle"}
    front = pareto_front({group: (cost, sign * levels[group]) for group, cost in usable.items()})
    corners = [(points[group][0], levels[group]) for group in front]
    if corners:
        corners.append((max(cost for cost, _ in points.values()), corners[-1][1]))
        (line,) = axes.step(*zip(*corners, strict=True), where="post", color=FG, linewidth=1)
        line.set(alpha=0.55, label=PARETO_LINE)
    lowest = levels.get("random", min(levels.values()))
    size = max(levels.values()) - lowest or 1.0
    floor = max(min(levels.values()), lowest - FLOOR * size)
    for group, (cost, level) in points.items():
        style, is_oracle = data.line_style(group), group == "oracle"
        is_named = group in data.results.baselines and not data.is_pilot
        axes.vlines(cost, level.low, level.high, colors=style.color, linewidths=1.4)
        (point,) = axes.plot(
            [cost],
            [max(level.mean, floor)],
            color=style.color,
            marker="v" if level.mean < floor else "*" if is_oracle else style.marker,
            markersize=12 if is_oracle else 5.5 if is_named else 8,
            markeredgecolor=BG,
            markeredgewidth=0.6,
            linestyle="none",
            zorder=3 if is_named else 4,
        )
        point.set_label(group)
    axes.margins(x=0.08)
    label_axes(axes, x, data.metric.axis_label)
    if data.is_pilot:
        axes.axvline(100, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        log_scale(axes)
    else:
        axes.set_ylim(floor - 0.1 * size, max(levels.values()) + 0.12 * size)
        at = {group: (cost, max(levels[group], floor)) for group, (cost, _) in points.items()}
        _label_baselines(data, at, corners, axes)


def _label_baselines(
    data: PlotData, points: Mapping[str, Point], front: Sequence[Point], axes: Axes
) -> None:
    """Label the baselines next to their points, where there is space."""
    axes.set_xlim(*axes.get_xlim())
    width = WIDTH - Panel.left - Panel.right
    height = Panel.height - Panel.top - Panel.bottom
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

    def place(cost: float, level: float) -> Floats:
        return np.array(
            [(cost - left) / (right - left) * width, (level - low) / (high - low) * height]
        )

    places = {group: place(*at) for group, at in points.items()}
    taken = [(each - 5, each + 5) for each in places.values()]
    for (cost, level), (next_cost, next_level) in itertools.pairwise(front):
        corner = place(next_cost, level)
        taken += [(place(cost, level), corner), (corner, place(next_cost, next_level))]
    named = [group for group in data.results.baselines if group in places]
    labels = [(group.removeprefix("fixed:"), places[group]) for group in named]
    for group, (text, _), offset in zip(
        named, labels, free_offsets(labels, taken, width, height), strict=True
    ):
        if offset is not None:
            axes.annotate(
                text,
                points[group],
                xytext=(float(offset[0]), float(offset[1])),
                textcoords="offset points",
                ha="center",
                va="center",
                size=SMALL,
                color=MUTED,
            )
