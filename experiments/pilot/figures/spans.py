"""Spans: how they moved in training, and what the model does at others."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.analysis.comparison_stats import MeanCI
from spangym.experiments.analysis.results import TRAINING
from spangym.experiments.pilot.figures.axes import scale_errors
from spangym.experiments.pilot.figures.curves import X_NAMES, VariantCurves, variant_curves
from spangym.experiments.plots.labels import spread
from spangym.experiments.plots.panels import NoData, Panel, label_axes, to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import LINES, MUTED, SMALL, LineStyle, ci_alpha

_HEIGHT, _RIGHT, _LABEL_HEIGHT = 220, 56, 12


def plot_span(results: PlotData) -> list[Panel]:
    """A panel for each variant that has spans: a line for each layer."""
    curves = results.results.curves
    layers = {
        layer: variant_curves(results, results.curves("span", TRAINING, layer))
        for layer in sorted(set(curves.loc[curves["metric"] == "span", "layer"].tolist()))
    }
    if not any(layers.values()):
        raise NoData("no variant has spans")
    everything = [each for curves in layers.values() for each in curves]
    ends = (
        1.02 * max(1e-9, *(float(each.x[-1]) for each in everything)),
        1.05 * max(1.0, *(float(each.mean.max()) for each in everything)),
    )
    panels = []
    for variant in results.results.groups:
        own = {
            layer: curve
            for layer, curves in layers.items()
            for curve in curves
            if curve.label == variant
        }
        if own:
            draw = partial(_draw_spans, results, own, ends)
            panels.append(Panel(variant, draw, height=_HEIGHT, right=_RIGHT))
    return panels


def plot_by_span(results: PlotData) -> list[Panel]:
    """A panel for each split: errors at spans that are set."""
    metric, by_action = results.metric, results.statistics.by_action
    (baseline,) = results.results.baselines
    panels = []
    for split in results.results.splits:
        here = by_action[by_action["split"] == split]
        if len(here):
            plain = results.estimates("error", split).get(baseline, MeanCI())
            title = f"{metric.label} by span, {results.split_label(split)}"
            level = metric.scale * plain.mean
            panels.append(Panel(title, partial(_draw_by_span, results, pd.DataFrame(here), level)))
    if not panels:
        raise NoData("no variant was evaluated at spans that are set")
    return panels


def _draw_spans(
    results: PlotData, layers: dict[int, VariantCurves], ends: tuple[float, float], axes: Axes
) -> None:
    for number, curve in enumerate(layers.values()):
        line_style = results.line_style(curve.label)
        line_style = LineStyle(line_style.color, LINES[number % len(LINES)], line_style.marker)
        curve.draw(axes, line_style, ci_alpha(len(layers)))
    # The same in all panels, that variants can be compared.
    axes.set_xlim(0, ends[0])
    axes.set_ylim(0, ends[1])
    label_axes(axes, X_NAMES[results.x], "span in tokens")
    height = _HEIGHT - Panel.top - Panel.bottom
    levels = np.array([curve.mean[-1] for curve in layers.values()]) / ends[1] * height
    positions = spread(levels, _LABEL_HEIGHT, 0, height)
    for (layer, curve), level, place in zip(layers.items(), levels, positions, strict=True):
        axes.annotate(
            f"layer {layer}",
            (curve.x[-1], curve.mean[-1]),
            xytext=(6, place - level),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=MUTED,
            annotation_clip=False,
        )


def _draw_by_span(results: PlotData, table: pd.DataFrame, level: float, axes: Axes) -> None:
    scale = results.metric.scale
    for variant in results.results.groups:
        rows = [row for row in to_records(table) if row["group"] == variant]
        if rows:
            line_style = results.line_style(variant)
            (line,) = axes.plot(
                [row["action"] for row in rows],
                [scale * row["mean"] for row in rows],
                color=line_style.color,
                linestyle=line_style.linestyle,
                marker=line_style.marker,
                markersize=5,
                linewidth=1.4,
            )
            line.set_label(variant)
    if np.isfinite(level):
        line_style = results.line_style(results.results.baselines[0])
        line = axes.axhline(level, color=line_style.color, linestyle=(0, (4, 3)), linewidth=1.4)
        line.set_label(results.results.baselines[0])
    label_axes(axes, "action in every layer", results.metric.axis_label)
    scale_errors(axes)
    axes.set_xticks(range(10), [str(action) for action in range(10)])
