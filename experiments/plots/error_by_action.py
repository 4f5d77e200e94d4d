"""Error of a pilot's models with the same action in every layer."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.axes import Axes

from spangym.experiments.plots.learning_curves import log_scale
from spangym.experiments.plots.panels import NoData, Panel, label_axes
from spangym.experiments.plots.plot_data import PlotData


def plot_error_by_action(data: PlotData) -> list[Panel]:
    """Plot one panel for each split."""
    by_action, results = data.statistics.by_action, data.results
    panels = []
    for split in results.splits:
        table = pd.DataFrame(by_action[by_action["split"] == split])
        if len(table):
            (environment,) = results.environments
            levels = {
                group: data.statistics.estimate(environment, group, results.primary, split).mean
                for group in results.baselines
            }
            title = f"{data.metric.label} by action, {data.split_label(split)}"
            panels.append(Panel(title, partial(_draw, data, table, levels)))
    if not panels:
        raise NoData("no model was evaluated with constant actions")
    return panels


def _draw(data: PlotData, table: pd.DataFrame, levels: dict[str, float], axes: Axes) -> None:
    scale = data.metric.scale
    for group, rows in table.groupby("group", sort=False):
        style = data.line_style(str(group))
        (line,) = axes.plot(
            rows["action"], scale * rows["mean"], **style._asdict(), markersize=5, linewidth=1.4
        )
        line.set_label(str(group))
    for group, level in levels.items():
        color = data.line_style(group).color
        line = axes.axhline(scale * level, color=color, linestyle=(0, (4, 3)), linewidth=1.4)
        line.set_label(group)
    label_axes(axes, "action in every layer", data.metric.axis_label)
    log_scale(axes)
    axes.set_xticks(sorted(set(table["action"])))
