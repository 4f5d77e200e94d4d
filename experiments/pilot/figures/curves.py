"""Trainings: loss and error as they fell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.analysis.results import TRAINING
from spangym.experiments.pilot.figures.axes import scale_errors
from spangym.experiments.plots.curve_utils import (
    SeedCurves,
    interp_on_grid,
    moving_average_on_grid,
    shared_grid,
    ylim_from_lines,
)
from spangym.experiments.plots.labels import Floats
from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import ci_alpha

X_NAMES = {"steps": "updates of the model", "wall": "seconds of the training"}
_MARKERS = 5
"""Of a line, by which it is told from others of its color."""

_BANDS = 0.6
"""How opaque bands are beside those of few agents: many lie over each other."""


@dataclass(frozen=True)
class VariantCurves(SeedCurves):
    """The trainings of a variant.

    Attributes:
        stopped: Whether one of them ended early.
        measured: Whether its points are measured, not drawn from what lies around them.
    """

    stopped: bool
    measured: bool


def plot_loss(results: PlotData) -> list[Panel]:
    """A panel of the training loss, and one for each split."""
    panels = [("Training loss", variant_curves(results, results.curves("loss", TRAINING)))]
    for split in results.results.splits:
        curves = variant_curves(results, results.curves("loss", split), measured=True)
        panels.append((f"Loss on {results.split_label(split)}", curves))
    unit = results.results.metrics["loss"].unit
    made = [
        Panel(title, partial(_draw_errors, results, curves, unit))
        for title, curves in panels
        if curves
    ]
    if not made:
        raise NoData("nothing was trained")
    return made


def plot_error(results: PlotData) -> list[Panel]:
    """A panel for each split."""
    metric = results.metric
    panels = []
    for split in results.results.splits:
        table = results.curves("error", split)
        scaled = table.assign(value=metric.scale * table["value"].astype(float))
        curves = variant_curves(results, scaled, measured=True)
        if curves:
            title = f"{metric.label} on {results.split_label(split)}"
            panels.append(Panel(title, partial(_draw_errors, results, curves, metric.axis_label)))
    if not panels:
        raise NoData("nothing was evaluated")
    return panels


def variant_curves(
    results: PlotData, table: pd.DataFrame, *, measured: bool = False
) -> list[VariantCurves]:
    """The curves of all variants that have any, as far as all their seeds got.

    Args:
        results: The pilot.
        table: With ``group``, ``seed``, ``step``, ``seconds`` and ``value``, one row per update;
            rows with a value that is not finite are left out.
        measured: Whether points are drawn where they were measured; else they are averaged over a
            share of the training.
    """
    finite = np.isfinite(table["value"].to_numpy(float))
    table = pd.DataFrame(table[finite]).sort_values("step", kind="stable")
    stopped = {variant for variant, _, _ in results.results.stopped}
    curves = []
    for variant in results.results.groups:
        own = pd.DataFrame(table[table["group"] == variant])
        seeds = [
            tuple(seed[name].to_numpy(float) for name in ("step", "value", "seconds"))
            for _, seed in own.groupby("seed")
        ]
        if not seeds:
            continue
        updates = [each[0] for each in seeds]
        if measured:
            grid = _in_common(updates)
            lines = [interp_on_grid(grid, each[0], each[1]) for each in seeds]
        else:
            grid = shared_grid(updates)
            window = results.smooth * max(float(each[-1]) for each in updates)
            lines = [moving_average_on_grid(each[0], each[1], grid, window) for each in seeds]
        seconds = np.mean([interp_on_grid(grid, each[0], each[2]) for each in seeds], 0)
        curves.append(
            VariantCurves(
                label=variant,
                x=grid if results.x == "steps" else seconds,
                values=np.stack(lines),
                stopped=variant in stopped,
                measured=measured,
            )
        )
    return curves


def draw_curves(
    results: PlotData,
    curves: Sequence[VariantCurves],
    y: str,
    axes: Axes,
) -> None:
    """Draw curves of variants, a cross at the end of those that ended early.

    Args:
        results: The pilot.
        curves: At least one.
        y: Name of the axis.
        axes: Where.
    """
    for curve in curves:
        line_style = results.line_style(curve.label)
        curve.draw(axes, line_style, _BANDS * ci_alpha(len(curves)), _markers(results, curve))
        if curve.stopped:
            end = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "linestyle": "none"}
            axes.plot(curve.x[-1:], curve.mean[-1:], color=line_style.color, **end)
    low, high = ylim_from_lines(axes)
    axes.set_ylim(max(0.0, low), high)
    label_axes(axes, X_NAMES[results.x], y)
    axes.set_xlim(0, 1.02 * max(1e-9, *(curve.x[-1] for curve in curves)))


def _draw_errors(results: PlotData, curves: Sequence[VariantCurves], y: str, axes: Axes) -> None:
    draw_curves(results, curves, y, axes)
    scale_errors(axes)


def _in_common(updates: Sequence[Floats]) -> Floats:
    """When something was measured in any training, within what all have gone through."""
    first, last = max(each[0] for each in updates), min(each[-1] for each in updates)
    every = np.unique(np.concatenate([*updates]))
    return every[(every >= first) & (every <= max(first, last))]


def _markers(results: PlotData, curve: VariantCurves) -> slice:
    if curve.measured:
        return slice(None)
    # Where lines run together, markers at the same place would hide each other.
    step = max(1, len(curve.x) // _MARKERS)
    place = results.results.groups.index(curve.label) / len(results.results.groups)
    return slice(math.floor(place * step), None, step)
