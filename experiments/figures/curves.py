"""Reward curves: what agents were paid while they trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..statistics.intervals import student_interval
from .labels import Floats, spread
from .panels import NothingToDraw, Panel, Results, name_axes
from .style import FAINT, SMALL, band_alpha

X_NAMES = {
    "steps": "environment steps of the training",
    "wall": "seconds of the training",
    "visited_keys": "keys visited in the training",
}
_POINTS = 200
_LABEL_HEIGHT = 12
_ROOM = 0.3
"""Beyond the lines, as a share of what lies between them; wider bands are cut off."""


@dataclass(frozen=True)
class Curve:
    """The trainings of an agent in an environment, on a common grid of steps.

    Attributes:
        environment: Label of the environment.
        agent: Label of the agent.
        x: Steps; or the means over seeds of the seconds or of the visited keys until then.
        returns: Smoothed returns, of shape (seeds, points).
    """

    environment: str
    agent: str
    x: Floats
    returns: Floats

    @property
    def mean(self) -> Floats:
        """Over the seeds."""
        return self.returns.mean(0)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """Bounds of the 95 % interval of the mean; NaN for a single seed."""
        return student_interval(self.returns.T)


def reward_panels(results: Results) -> list[Panel]:
    """A panel for each environment in which something was trained."""
    curves = reward_curves(results)
    if not curves:
        raise NothingToDraw("nothing was trained")
    panels = []
    for environment in results.rows.environments:
        here = [curve for curve in curves if curve.environment == environment]
        if here:
            panels.append(Panel(environment, partial(_draw, results, here), right=56))
    return panels


def reward_curves(results: Results) -> list[Curve]:
    """The learners' curves, in the order of environments and learners."""
    table = results.rows.curves
    groups = table.groupby(["environment", "agent"], sort=False, observed=True).indices
    trials = results.rows.trials
    budgets = {
        (environment, agent): float(steps)
        for environment, agent, steps in zip(
            trials["environment"], trials["agent"], trials["steps"], strict=True
        )
    }
    return [
        _curve(results, *key, table.iloc[groups[key]], budgets[key])
        for environment in results.rows.environments
        for agent in results.rows.learners
        if (key := (environment, agent)) in groups
    ]


def smoothed(ends: Floats, returns: Floats, grid: Floats, window: float) -> Floats:
    """A training curve on a grid of steps.

    Args:
        ends: Steps at which episodes ended, in order.
        returns: What they returned.
        grid: Steps, none before the first end.
        window: How many steps are averaged over.

    Returns:
        For each step of the grid the mean return of the episodes that ended in the window before
        it, or of those that ended last.
    """
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    until = np.searchsorted(ends, grid, side="right")
    # Where no episode ended in time, those that ended last: several, if lanes ended together.
    last = np.searchsorted(ends, ends[until - 1], side="left")
    since = np.minimum(np.searchsorted(ends, grid - window, side="right"), last)
    return (sums[until] - sums[since]) / (until - since)


def _curve(
    results: Results, environment: str, agent: str, table: pd.DataFrame, steps: float
) -> Curve:
    column = {"steps": "step", "wall": "wall_seconds", "visited_keys": "visited_keys"}[results.x]
    table = table.sort_values(["training_seed", "step"], kind="stable")
    ends, returns, x = (table[name].to_numpy(float) for name in ("step", "return", column))
    starts = np.flatnonzero(np.diff(table["training_seed"].to_numpy(), prepend=-1))
    seeds = [
        *zip(*(np.split(values, starts[1:]) for values in (ends, returns, x)), strict=True),
    ]
    first = max(each[0][0] for each in seeds)
    grid = np.linspace(first, max(first, min(each[0][-1] for each in seeds)), _POINTS)
    window = results.smooth * steps
    lines = [smoothed(each[0], each[1], grid, window) for each in seeds]
    if results.x == "visited_keys":
        seeds = [(ends, returns, np.cumsum(keys)) for ends, returns, keys in seeds]
    return Curve(
        environment=environment,
        agent=agent,
        x=np.mean([_at(grid, each[0], each[2]) for each in seeds], 0),
        returns=np.stack(lines),
    )


def _at(grid: Floats, ends: Floats, values: Floats) -> Floats:
    """Values between the ends of episodes; where lanes ended together, the last."""
    last = np.flatnonzero(np.diff(ends, append=np.inf))
    return np.interp(grid, ends[last], values[last])


def _draw(results: Results, curves: list[Curve], axes: Axes) -> None:
    for curve in curves:
        look = results.look(curve.agent)
        # A single point makes no line.
        marker = look.marker if curve.x[0] == curve.x[-1] else None
        line = {"color": look.colour, "linestyle": look.line, "marker": marker}
        (drawn,) = axes.plot(curve.x, curve.mean, linewidth=1.6, markersize=5, **line)
        drawn.set_label(curve.agent)
        shade = {"color": look.colour, "alpha": band_alpha(len(curves)), "linewidth": 0}
        axes.fill_between(curve.x, *curve.interval, **shade)
    _draw_levels(results, curves[0].environment, axes)
    name_axes(axes, X_NAMES[results.x], "mean return of an episode")
    axes.set_xlim(0, max(1e-9, *(curve.x[-1] for curve in curves)))


def _limits(axes: Axes) -> tuple[float, float]:
    """Limits that leave room for the bands, but not for what two seeds make of them."""
    lines = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    room = _ROOM * (lines.max() - lines.min() or 1.0)
    low, high = axes.get_ylim()
    return max(low, lines.min() - room), min(high, lines.max() + room)


def _draw_levels(results: Results, environment: str, axes: Axes) -> None:
    means = results.means(environment)
    labels = [
        label
        for label in ("oracle", results.best_fixed(environment), "random")
        if label in means and label in results.rows.references
    ]
    for label in labels:
        drawn = axes.axhline(means[label], color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
        drawn.set_label(label)
    low, high = _limits(axes)
    axes.set_ylim(low, high)
    height = Panel.height - Panel.top - Panel.bottom
    levels = (np.array([means[label] for label in labels]) - low) / (high - low) * height
    places = spread(levels, _LABEL_HEIGHT, 0, height)
    for label, level, place in zip(labels, levels, places, strict=True):
        axes.annotate(
            label,
            (1, means[label]),
            xycoords=("axes fraction", "data"),
            xytext=(8, place - level),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=FAINT,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
