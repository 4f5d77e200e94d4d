"""Return vs. compute: what is returned for the keys that are visited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from spangym.experiments.plots.labels import Floats, beside
from spangym.experiments.plots.panels import WIDTH, NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import BG, FG, MUTED, SMALL

_LOW = 0.25
"""What is worse than random by more than this share of the way to the best is drawn at the lower
edge: it would leave no room to tell the others apart."""

PARETO_LINE = "Pareto front"
Point = tuple[float, float]


def plot_pareto(data: PlotData) -> list[Panel]:
    """A panel for each environment."""
    panels = []
    for environment in data.results.environments:
        returns = data.means(environment)
        keys = data.means(environment, "qk_pairs")
        points = {
            agent: (keys[agent], returns[agent])
            for agent in data.results.groups
            if agent in returns and np.isfinite(keys[agent] + returns[agent])
        }
        if points:
            panels.append(Panel(environment, partial(_draw, data, points)))
    if not panels:
        raise NoData("no trial is finished")
    return panels


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Agents that no other beats at the same or a lower cost, the cheapest first.

    Args:
        points: Cost and return, by agent.

    Example:
        >>> pareto_front({"a": (1, 1), "b": (2, 1), "c": (3, 4), "d": (3, 2)})
        ['a', 'c']
    """
    front: list[str] = []
    for agent in sorted(points, key=lambda each: (points[each][0], -points[each][1])):
        if not front or points[agent][1] > points[front[-1]][1]:
            front.append(agent)
    return front


def _draw(data: PlotData, points: Mapping[str, Point], axes: Axes) -> None:
    levels = [level for _, level in points.values()]
    lowest = points["random"][1] if "random" in points else min(levels)
    size = max(levels) - lowest or 1.0
    floor = max(min(levels), lowest - _LOW * size)
    # The oracle knows what is to come, which nothing that can be run does.
    front = pareto_front({agent: at for agent, at in points.items() if agent != "oracle"})
    corners = [points[agent] for agent in front]
    if corners:
        corners.append((max(cost for cost, _ in points.values()), corners[-1][1]))
        (line,) = axes.step(*zip(*corners, strict=True), where="post", color=FG, linewidth=1)
        line.set(alpha=0.55, label=PARETO_LINE)
    for agent, (cost, level) in points.items():
        line_style = data.line_style(agent)
        learner = agent in data.results.learners
        below = level < floor
        (drawn,) = axes.plot(
            [cost],
            [max(level, floor)],
            color=line_style.color,
            marker="v" if below else "*" if agent == "oracle" else line_style.marker,
            markersize=12 if agent == "oracle" else 8 if learner else 5.5,
            markeredgecolor=BG,
            markeredgewidth=0.6,
            linestyle="none",
            zorder=4 if learner else 3,
        )
        drawn.set_label(agent)
    axes.set_ylim(floor - 0.1 * size, max(levels) + 0.12 * size)
    axes.margins(x=0.08)
    label_axes(axes, "keys visited in a decision", "mean return of an episode")
    _label(data, points, corners, floor, axes)


def _label(
    data: PlotData, points: Mapping[str, Point], front: Sequence[Point], floor: float, axes: Axes
) -> None:
    """Name the baselines beside their points, where nothing else is."""
    axes.set_xlim(*axes.get_xlim())
    width = WIDTH - Panel.left - Panel.right
    height = Panel.height - Panel.top - Panel.bottom
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

    def place(cost: float, level: float) -> Floats:
        across, up = (cost - left) / (right - left), (max(level, floor) - low) / (high - low)
        return np.array([across * width, up * height])

    places = {agent: place(*at) for agent, at in points.items()}
    taken = [(each - 5, each + 5) for each in places.values()]
    for (cost, level), (next_cost, next_level) in pairwise(front):
        corner = place(next_cost, level)
        taken += [(place(cost, level), corner), (corner, place(next_cost, next_level))]
    named = [(agent, agent.removeprefix("fixed:")) for agent in data.results.baselines]
    labels = [(text, agent) for agent, text in named if agent in places]
    offsets = beside([(text, places[agent]) for text, agent in labels], taken, width, height)
    for (text, agent), offset in zip(labels, offsets, strict=True):
        if offset is not None:
            axes.annotate(
                text,
                (points[agent][0], max(points[agent][1], floor)),
                xytext=(float(offset[0]), float(offset[1])),
                textcoords="offset points",
                ha="center",
                va="center",
                size=SMALL,
                color=MUTED,
            )
