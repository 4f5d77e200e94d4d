"""What variants cost: time, and keys that are visited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.pilot.figures.axes import scale_errors
from spangym.experiments.pilot.figures.curves import draw_curves, variant_curves
from spangym.experiments.pilot.figures.results import PilotResults
from spangym.experiments.plots.estimates import Estimate, plot_estimates
from spangym.experiments.plots.panels import NoData, Panel, label_axes, to_records
from spangym.experiments.plots.style import BG, MUTED, truncate_middle

_TIMES = {"milliseconds": "Milliseconds an update", "seconds": "Seconds a training"}


def plot_runtime(results: PilotResults) -> list[Panel]:
    """A panel of the time of an update, and one of that of a training."""
    table = to_records(results.summary.costs)
    if not table:
        raise NoData("no training is finished")
    panels = []
    for column, title in _TIMES.items():
        rows = [
            Estimate(
                _with_ratio(row) if column == "milliseconds" else row["variant"],
                results.line_style(row["variant"]),
                row[column],
                row[f"{column}_low"],
                row[f"{column}_high"],
            )
            for row in table
        ]
        panels.append(plot_estimates(title, rows, title.lower(), zero=True))
    return panels


def plot_key(results: PilotResults) -> list[Panel]:
    """A panel of errors against visited keys for each split, and one of keys in training."""
    metric, rows, summary = results.metric, results.rows, results.summary
    panels = []
    shares = {row["variant"]: 100 * row["share"] for row in to_records(summary.costs)}
    for split in rows.splits:
        points = {
            row["variant"]: [
                metric.scale * row[name] for name in ("error", "error_low", "error_high")
            ]
            for row in to_records(summary.errors)
            if row["split"] == split and np.isfinite(row["error"])
        }
        points = {each: at for each, at in points.items() if np.isfinite(shares[each])}
        if points:
            title = f"{metric.title} and keys, {metric.of([split])}"
            panels.append(Panel(title, partial(_draw_points, results, shares, points)))
    of_update = rows.spans.groupby(["variant", "seed", "update"], sort=False, as_index=False)
    means = pd.DataFrame(of_update[["seconds", "qk_pairs"]].mean())
    curves = variant_curves(results, means, "qk_pairs")
    if curves:
        name = "keys of a sequence and layer"
        draw = partial(draw_curves, results, curves, name)
        panels.append(Panel("Keys visited in training, local path", draw))
    if not panels:
        raise NoData("no training is finished")
    return panels


def _with_ratio(row: Mapping[str, Any]) -> str:
    if math.isnan(row["ratio"]):
        return row["variant"]
    return f"{truncate_middle(row['variant'], 38)}, {row['ratio']:.2f} times"


def _draw_points(
    results: PilotResults, shares: dict[str, float], points: dict[str, list[float]], axes: Axes
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
