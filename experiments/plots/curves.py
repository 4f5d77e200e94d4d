"""Reward curves: what agents were paid while they trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.plots.curve_utils import (
    SeedCurves,
    interp_on_grid,
    moving_average_on_grid,
    shared_grid,
    ylim_from_lines,
)
from spangym.experiments.plots.labels import spread
from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import MUTED, SMALL, ci_alpha

X_NAMES = {
    "steps": "environment steps of the training",
    "wall": "seconds of the training",
    "qk_pairs": "keys visited in the training",
}
_LABEL_HEIGHT = 12


@dataclass(frozen=True)
class RewardCurves(SeedCurves):
    """The trainings of an agent in an environment: smoothed returns.

    Attributes:
        environment: Label of the environment.
    """

    environment: str


def plot_reward_curves(data: PlotData) -> list[Panel]:
    """A panel for each environment in which something was trained."""
    curves = reward_curves(data)
    if not curves:
        raise NoData("nothing was trained")
    panels = []
    for environment in data.results.environments:
        here = [curve for curve in curves if curve.environment == environment]
        if here:
            panels.append(Panel(environment, partial(_draw, data, here), right=56))
    return panels


def reward_curves(data: PlotData) -> list[RewardCurves]:
    """The learners' curves, in the order of environments and learners."""
    table = data.results.curves
    rows = table.groupby(["environment", "group", "metric"], sort=False).indices
    return [
        _curve(
            data,
            environment,
            agent,
            table.iloc[rows[environment, agent, "return"]],
            table.iloc[rows[environment, agent, "qk_pairs"]],
        )
        for environment in data.results.environments
        for agent in data.results.learners
        if (environment, agent, "return") in rows
    ]


def _curve(
    data: PlotData,
    environment: str,
    agent: str,
    returns_table: pd.DataFrame,
    qk_pairs_table: pd.DataFrame,
) -> RewardCurves:
    table, qk_pairs = (
        each.sort_values(["seed", "step"], kind="stable")
        for each in (returns_table, qk_pairs_table)
    )
    ends, returns = table["step"].to_numpy(float), table["value"].to_numpy(float)
    x = {"steps": ends, "wall": table["seconds"], "qk_pairs": qk_pairs["value"]}[data.x]
    x = np.asarray(x, float)
    starts = np.flatnonzero(np.diff(table["seed"].to_numpy(), prepend=-1))
    seeds = [
        *zip(*(np.split(values, starts[1:]) for values in (ends, returns, x)), strict=True),
    ]
    grid = shared_grid([each[0] for each in seeds])
    window = data.smooth * data.means(environment, "steps")[agent]
    lines = [moving_average_on_grid(each[0], each[1], grid, window) for each in seeds]
    if data.x == "qk_pairs":
        seeds = [(ends, returns, np.cumsum(keys)) for ends, returns, keys in seeds]
    return RewardCurves(
        environment=environment,
        label=agent,
        x=np.mean([interp_on_grid(grid, each[0], each[2]) for each in seeds], 0),
        values=np.stack(lines),
    )


def _draw(data: PlotData, curves: list[RewardCurves], axes: Axes) -> None:
    for curve in curves:
        curve.draw(axes, data.line_style(curve.label), ci_alpha(len(curves)))
    _draw_levels(data, curves[0].environment, axes)
    label_axes(axes, X_NAMES[data.x], "mean return of an episode")
    axes.set_xlim(0, max(1e-9, *(curve.x[-1] for curve in curves)))


def _draw_levels(data: PlotData, environment: str, axes: Axes) -> None:
    means = data.means(environment)
    labels = [
        label
        for label in ("oracle", data.best_fixed(environment), "random")
        if label in means and label in data.results.baselines
    ]
    for label in labels:
        drawn = axes.axhline(means[label], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        drawn.set_label(label)
    low, high = ylim_from_lines(axes)
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
            color=MUTED,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
