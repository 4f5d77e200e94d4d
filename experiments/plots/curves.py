"""Reward curves: what agents were paid while they trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.plots.curve_utils import (
    SeedCurves,
    common_grid,
    interpolated,
    limits_of_lines,
    smoothed,
)
from spangym.experiments.plots.labels import spread
from spangym.experiments.plots.panels import NothingToDraw, Panel, name_axes
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.style import FAINT, SMALL, band_alpha

X_NAMES = {
    "steps": "environment steps of the training",
    "wall": "seconds of the training",
    "visited_keys": "keys visited in the training",
}
_LABEL_HEIGHT = 12


@dataclass(frozen=True)
class RewardCurves(SeedCurves):
    """The trainings of an agent in an environment: smoothed returns.

    Attributes:
        environment: Label of the environment.
    """

    environment: str


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


def reward_curves(results: Results) -> list[RewardCurves]:
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


def _curve(
    results: Results, environment: str, agent: str, table: pd.DataFrame, steps: float
) -> RewardCurves:
    column = {"steps": "step", "wall": "wall_seconds", "visited_keys": "visited_keys"}[results.x]
    table = table.sort_values(["training_seed", "step"], kind="stable")
    ends, returns, x = (table[name].to_numpy(float) for name in ("step", "return", column))
    starts = np.flatnonzero(np.diff(table["training_seed"].to_numpy(), prepend=-1))
    seeds = [
        *zip(*(np.split(values, starts[1:]) for values in (ends, returns, x)), strict=True),
    ]
    grid = common_grid([each[0] for each in seeds])
    window = results.smooth * steps
    lines = [smoothed(each[0], each[1], grid, window) for each in seeds]
    if results.x == "visited_keys":
        seeds = [(ends, returns, np.cumsum(keys)) for ends, returns, keys in seeds]
    return RewardCurves(
        environment=environment,
        label=agent,
        x=np.mean([interpolated(grid, each[0], each[2]) for each in seeds], 0),
        values=np.stack(lines),
    )


def _draw(results: Results, curves: list[RewardCurves], axes: Axes) -> None:
    for curve in curves:
        curve.draw(axes, results.look(curve.label), band_alpha(len(curves)))
    _draw_levels(results, curves[0].environment, axes)
    name_axes(axes, X_NAMES[results.x], "mean return of an episode")
    axes.set_xlim(0, max(1e-9, *(curve.x[-1] for curve in curves)))


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
    low, high = limits_of_lines(axes)
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
