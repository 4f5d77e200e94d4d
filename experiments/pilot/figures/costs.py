"""What variants cost: time, and keys that are visited."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.analysis.comparison_stats import MeanCI
from spangym.experiments.analysis.results import ALL_SPLITS, TRAINING
from spangym.experiments.pilot.figures.axes import scale_errors
from spangym.experiments.pilot.figures.curves import draw_curves, variant_curves
from spangym.experiments.plots.estimates import Estimate, plot_estimates
from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import BG, MUTED, truncate_middle

_TIMES = {"milliseconds": "Milliseconds an update", "seconds": "Seconds a training"}


def plot_runtime(results: PlotData) -> list[Panel]:
    """A panel of the time of an update, and one of that of a training."""
    ratios = results.estimates("time_ratio", ALL_SPLITS)
    panels = []
    for column, title in _TIMES.items():
        rows = [
            Estimate(
                _with_ratio(variant, ratios) if column == "milliseconds" else variant,
                results.line_style(variant),
                *found[:3],
            )
            for variant, found in results.estimates(column, ALL_SPLITS).items()
        ]
        if not rows:
            raise NoData("no training is finished")
        panels.append(plot_estimates(title, rows, title.lower(), zero=True))
    return panels


def plot_key(results: PlotData) -> list[Panel]:
    """A panel of errors against visited keys for each split, and one of keys in training."""
    metric = results.metric
    panels = []
    shares = {
        variant: 100 * share.mean
        for variant, share in results.estimates("qk_share", ALL_SPLITS).items()
    }
    for split in results.results.splits:
        points = {
            variant: [metric.scale * each for each in error[:3]]
            for variant, error in results.estimates("error", split).items()
            if variant in shares
        }
        if points:
            title = f"{metric.label} and keys, {results.split_label(split)}"
            panels.append(Panel(title, partial(_draw_points, results, shares, points)))
    table = results.results.curves
    table = table[(table["metric"] == "qk_pairs") & (table["split"] == TRAINING)]
    of_update = table.groupby(["group", "seed", "step"], sort=False, as_index=False)
    curves = variant_curves(results, pd.DataFrame(of_update[["seconds", "value"]].mean()))
    if curves:
        name = "keys of a sequence and layer"
        draw = partial(draw_curves, results, curves, name)
        panels.append(Panel("Keys visited in training, local path", draw))
    if not panels:
        raise NoData("no training is finished")
    return panels


def _with_ratio(variant: str, ratios: Mapping[str, MeanCI]) -> str:
    if variant not in ratios:
        return variant
    return f"{truncate_middle(variant, 38)}, {ratios[variant].mean:.2f} times"


def _draw_points(
    results: PlotData, shares: dict[str, float], points: dict[str, list[float]], axes: Axes
) -> None:
    axes.axvline(100, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    for variant, (error, low, high) in points.items():
        line_style = results.line_style(variant)
        if np.isfinite(low + high):
            axes.vlines(shares[variant], low, high, colors=line_style.color, linewidths=1.4)
        (point,) = axes.plot(
            [shares[variant]],
            [error],
            color=line_style.color,
            marker=line_style.marker,
            markersize=8,
            markeredgecolor=BG,
            markeredgewidth=0.6,
            linestyle="none",
            zorder=3,
        )
        point.set_label(variant)
    axes.margins(x=0.08)
    label_axes(axes, "visited keys, % of full attention", results.metric.axis_label)
    scale_errors(axes)
