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
from spangym.experiments.plots.estimates import Estimate, estimate_panel
from spangym.experiments.plots.panels import NothingToDraw, Panel, name_axes, records
from spangym.experiments.plots.style import FAINT, PAPER, shortened

_TIMES = {"milliseconds": "Milliseconds an update", "seconds": "Seconds a training"}


def runtime_panels(results: PilotResults) -> list[Panel]:
    """A panel of the time of an update, and one of that of a training."""
    table = records(results.summary.costs)
    if not table:
        raise NothingToDraw("no training is finished")
    panels = []
    for column, title in _TIMES.items():
        rows = [
            Estimate(
                _with_ratio(row) if column == "milliseconds" else row["variant"],
                results.look(row["variant"]),
                row[column],
                row[f"{column}_low"],
                row[f"{column}_high"],
            )
            for row in table
        ]
        panels.append(estimate_panel(title, rows, title.lower(), zero=True))
    return panels


def key_panels(results: PilotResults) -> list[Panel]:
    """A panel of errors against visited keys for each split, and one of keys in training."""
    measure, rows, summary = results.measure, results.rows, results.summary
    panels = []
    shares = {row["variant"]: 100 * row["share"] for row in records(summary.costs)}
    for split in rows.splits:
        points = {
            row["variant"]: [
                measure.scale * row[name] for name in ("error", "error_low", "error_high")
            ]
            for row in records(summary.errors)
            if row["split"] == split and np.isfinite(row["error"])
        }
        points = {each: at for each, at in points.items() if np.isfinite(shares[each])}
        if points:
            title = f"{measure.title} and keys, {measure.of([split])}"
            panels.append(Panel(title, partial(_draw_points, results, shares, points)))
    of_update = rows.spans.groupby(["variant", "seed", "update"], sort=False, as_index=False)
    means = pd.DataFrame(of_update[["seconds", "visited_keys"]].mean())
    curves = variant_curves(results, means, "visited_keys")
    if curves:
        name = "keys of a sequence and layer"
        draw = partial(draw_curves, results, curves, name)
        panels.append(Panel("Keys visited in training, local path", draw))
    if not panels:
        raise NothingToDraw("no training is finished")
    return panels


def _with_ratio(row: Mapping[str, Any]) -> str:
    if math.isnan(row["ratio"]):
        return row["variant"]
    return f"{shortened(row['variant'], 38)}, {row['ratio']:.2f} times"


def _draw_points(
    results: PilotResults, shares: dict[str, float], points: dict[str, list[float]], axes: Axes
) -> None:
    axes.axvline(100, color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
    for variant, (error, low, high) in points.items():
        look = results.look(variant)
        if np.isfinite(low + high):
            axes.vlines(shares[variant], low, high, colors=look.colour, linewidths=1.4)
        (point,) = axes.plot(
            [shares[variant]],
            [error],
            color=look.colour,
            marker=look.marker,
            markersize=8,
            markeredgecolor=PAPER,
            markeredgewidth=0.6,
            linestyle="none",
            zorder=3,
        )
        point.set_label(variant)
    axes.margins(x=0.08)
    name_axes(axes, "visited keys, % of full attention", results.measure.axis)
    scale_errors(axes)
