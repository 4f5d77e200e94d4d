"""Scores of several environments: performance profiles and a radar."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.projections.polar import PolarAxes
from numpy.typing import NDArray

from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import FG, MUTED, SMALL, ci_alpha, format_tick, truncate_middle

MIN_ENVIRONMENTS = 3
"""Environments of a radar: fewer do not make a polygon."""


def plot_profiles(data: PlotData) -> list[Panel]:
    """Plot the fraction of runs above each score."""
    table = data.statistics.profiles
    if not len(table):
        raise NoData("there are no scores")
    alpha = ci_alpha(len(set(table["group"])))

    def draw(axes: Axes) -> None:
        for agent, rows in table.groupby("group", sort=False):
            color, linestyle, _ = data.line_style(str(agent))
            x, share, low, high = (
                rows[name].to_numpy(float) for name in ("threshold", "share", "low", "high")
            )
            (line,) = axes.plot(x, share, color=color, linestyle=linestyle, linewidth=1.6)
            line.set_label(str(agent))
            axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
        label_axes(axes, "score: random 0, oracle 1", "fraction of runs with a higher score")
        axes.set_ylim(-0.02, 1.02)
        axes.margins(x=0)

    return [Panel("", draw)]


def plot_radar(data: PlotData) -> list[Panel]:
    """Plot the score of each learner in each environment."""
    results = data.results
    scores = {environment: data.means(environment, "score") for environment in results.environments}
    scores = {
        environment: here
        for environment, here in scores.items()
        if any(not math.isnan(here.get(agent, math.nan)) for agent in results.learners)
    }
    if len(scores) < MIN_ENVIRONMENTS:
        raise NoData(f"a radar needs scores in {MIN_ENVIRONMENTS} environments or more")
    environments = [*scores]
    angles = np.linspace(0, 2 * np.pi, len(environments), endpoint=False)

    def around(values: list[float]) -> NDArray[np.float64]:
        return np.array([*values, values[0]])

    def draw(axes: Axes) -> None:
        assert isinstance(axes, PolarAxes)
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        turn = around([*angles])
        fixed = [(each, data.best_fixed(each)) for each in environments]
        level = [scores[each].get(best or "", math.nan) for each, best in fixed]
        axes.plot(turn, around(level), color=MUTED, linestyle="--", linewidth=1.1)
        for agent in results.learners:
            values = around([scores[each].get(agent, math.nan) for each in environments])
            style = data.line_style(agent)._asdict()
            (line,) = axes.plot(turn, values, **style, markersize=4, linewidth=1.6)
            line.set_label(agent)
        _name_spokes(axes, _short_names(environments), angles)

    return [Panel("", draw, height=310, left=76, right=76, top=40, bottom=40, polar=True)]


def _short_names(environments: list[str]) -> list[str]:
    """Environment names without their namespace, if they stay unique."""
    ends = [each.rpartition("/")[2] for each in environments]
    return ends if len({*ends}) == len(ends) and all(ends) else environments


def _name_spokes(axes: PolarAxes, names: list[str], angles: NDArray[np.float64]) -> None:
    axes.set_xticks(angles, [""] * len(angles))
    for name, angle in zip(names, angles, strict=True):
        sideways = np.sin(angle)
        across = "center" if abs(sideways) < 0.2 else "left" if sideways > 0 else "right"
        upwards = np.cos(angle)
        along = "bottom" if upwards > 0.8 else "top" if upwards < -0.8 else "center"
        axes.annotate(
            textwrap.fill(truncate_middle(name, 34), 14),
            (0.5 + 0.53 * sideways, 0.5 + 0.53 * upwards),
            xycoords="axes fraction",
            ha=across,
            va=along,
            size=SMALL,
            color=FG,
            linespacing=1.1,
        )
    low, high = axes.get_ylim()
    low, high = min(0.0, np.floor(low * 4) / 4), max(1.0, high)
    axes.set_ylim(low, high)
    ticks = [tick for tick in (-1, -0.5, 0, 0.5, 1) if low <= tick <= high]
    axes.set_yticks(ticks, [format_tick(tick) for tick in ticks], size=SMALL)
    axes.set_rlabel_position(180 / len(angles))
    axes.spines["polar"].set_visible(False)
