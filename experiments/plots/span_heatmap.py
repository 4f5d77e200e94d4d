"""Mean spans by layer and content type."""

from __future__ import annotations

from functools import partial

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb

from spangym.experiments.plots.panels import WIDTH, NoData, Panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import BG, FG, MUTED, SMALL, format_tick, truncate_middle
from spangym.utils.text import DASH

_ROW, _HEAD, _LEFT, _RIGHT = 24, 26, 52, 10
_CHARACTER = 6.6
_MAP = mpl.colormaps["YlGnBu"]


def plot_span_heatmaps(data: PlotData) -> list[Panel]:
    """Plot one panel for each environment: the layers of each learner, then those of the oracle."""
    spans = mean_spans(data.results.action_counts)
    panels = []
    for environment in data.results.environments:
        grids = {
            agent: spans[environment, agent]
            for agent in (*data.results.learners, "oracle")
            if (environment, agent) in spans
        }
        if grids:
            panels.append(plot_span_heatmap(environment, grids))
    if not panels:
        raise NoData("no actions were recorded")
    return panels


def mean_spans(action_counts: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Mean span over seeds and actions, of the table `Results.action_counts`.

    Returns:
        Tables of layers and content types by environment and agent, with all content types of the
        environment as columns.
    """
    weighted = action_counts.assign(tokens=action_counts["count"] * action_counts["mean_span"])
    spans = {}
    for environment, here in weighted.groupby("environment", sort=False):
        contents = list(dict.fromkeys(here["content_type"]))
        for agent, rows in here.groupby("group", sort=False):
            sums = rows.pivot_table(
                index="layer", columns="content_type", values=["tokens", "count"], aggfunc="sum"
            )
            grid = pd.DataFrame(sums["tokens"] / sums["count"])
            spans[str(environment), str(agent)] = grid.reindex(columns=contents)
    return spans


def plot_span_heatmap(environment: str, grids: dict[str, pd.DataFrame]) -> Panel:
    """Make the panel of one environment, of tables by agent as `mean_spans` makes them."""
    names = [truncate_middle(str(name), 18) for name in next(iter(grids.values())).columns]
    longest = _CHARACTER * max(map(len, names))
    tilted = longest > (WIDTH - _LEFT - _RIGHT) / len(names) - 4
    below = round(14 + 0.58 * longest) if tilted else 24
    height = sum(_HEAD + _ROW * len(grid) for grid in grids.values()) + below + 4
    draw = partial(_draw, grids, names, tilted)
    return Panel(environment, draw, height, _LEFT, _RIGHT, top=4, bottom=below)


def _draw(grids: dict[str, pd.DataFrame], names: list[str], tilted: bool, axes: Axes) -> None:
    # A linear scale would not distinguish short spans.
    doublings = np.log2(1 + np.concatenate([grid.to_numpy(float) for grid in grids.values()]))
    scale = Normalize(np.nanmin(doublings) - 0.5, np.nanmax(doublings) + 0.5)
    top = 0.0
    places, layers = [], []
    for agent, grid in grids.items():
        axes.text(0, top + _HEAD - 6, truncate_middle(agent, 44), size=11.5, color=FG)
        top += _HEAD
        edges = top + _ROW * np.arange(len(grid) + 1)
        spans = grid.to_numpy(float)
        shades = np.ma.masked_invalid(scale(np.log2(1 + spans)))
        x = np.arange(len(names) + 1)
        axes.pcolormesh(x, edges, shades, cmap=_MAP, vmin=0, vmax=1, edgecolors=BG, lw=1.5)
        for (row, column), span in np.ndenumerate(spans):
            known = bool(np.isfinite(span))
            axes.text(
                column + 0.5,
                float(edges[row]) + _ROW / 2,
                _tokens(span) if known else DASH,
                ha="center",
                va="center",
                size=SMALL,
                color=_readable_on(float(shades[row, column])) if known else MUTED,
            )
        places.extend(edges[:-1] + _ROW / 2)
        layers.extend(grid.index)
        top = edges[-1]
    axes.set_xlim(0, len(names))
    axes.set_ylim(top, 0)
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
    axes.set_xticks(np.arange(len(names)) + 0.5, names, **turned)
    axes.set_yticks(places, [f"layer {layer}" for layer in layers])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _readable_on(shade: float) -> str:
    """Black or white, whichever has the higher contrast (WCAG 2)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(_MAP(shade))
    )
    return "#ffffff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 else "#000000"


def _tokens(span: float) -> str:
    return format_tick(round(span, 1) if span < 10 else round(span))
