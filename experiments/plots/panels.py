"""Panels: drawn together in a figure, or one by one in a report."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from spangym.experiments.plots.style import MUTED, STYLE, LineStyle, format_tick, truncate_middle

WIDTH = 380
"""Width of a panel; lengths are points in a figure, pixels in a report."""

_COLUMNS, _GAP, _EDGE, _LINE = 3, 24, 18, 16


class NoData(Exception):  # noqa: N818
    """The results have nothing to plot; the message is the reason."""


@dataclass(frozen=True)
class Panel:
    """A part of a figure with its own axes.

    Attributes:
        title: Title, e.g. an environment or a statistic.
        draw: Draws into the axes.
        height: Total height.
        left: Margin left of the axes; ``right``, ``top`` and ``bottom`` likewise.
        polar: Whether the axes are polar.
    """

    title: str
    draw: Callable[[Axes], None]
    height: int = 280
    left: int = 52
    right: int = 14
    top: int = 26
    bottom: int = 42
    polar: bool = False


def to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a small table as dicts."""
    return cast("list[dict[str, Any]]", table.to_dict("records"))


def render_panel(panel: Panel) -> Figure:
    """Render one panel without its title."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, panel.height / 72))
        _place(figure, panel, 0, 0)
    return figure


def legend_swatch(line_style: LineStyle) -> Figure:
    """Render a line with its marker, for a legend."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(30 / 72, 12 / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        line = {"color": line_style.color, "linestyle": line_style.linestyle, "linewidth": 1.8}
        axes.plot([0.02, 0.98], [0.5, 0.5], **line)
        axes.plot([0.5], [0.5], color=line_style.color, marker=line_style.marker, markersize=6)
    return figure


def render_grid(
    panels: Sequence[Panel],
    title: str,
    caption: str,
    legend: Sequence[tuple[str, LineStyle]],
    columns: int = _COLUMNS,
) -> Figure:
    """Render panels in a grid of at most ``columns``, with title, legend and a caption below."""
    columns = 2 if len(panels) in (2, 4) else min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    names = {panel.title: textwrap.fill(panel.title, 44) for panel in panels}
    heads = [max(_LINE * (names[each.title].count("\n") + 1) for each in row) + 6 for row in rows]
    heights = [max(panel.height for panel in row) for row in rows]
    inner_width = columns * WIDTH + (columns - 1) * _GAP
    width = inner_width + 2 * _EDGE
    notes = textwrap.wrap(caption, int(inner_width / 5.5))
    handles = [_legend_handle(truncate_middle(label, 56), style) for label, style in legend]
    longest = max((7.2 * len(str(each.get_label())) + 52 for each in handles), default=inner_width)
    legend_columns = max(1, min(len(handles), int(inner_width / longest)))
    legend_height = 15.4 * -(-len(handles) // legend_columns) + 14 if handles else 0
    below = legend_height + 15 * len(notes) + _EDGE + 4
    height = 44 + sum(heads) + sum(heights) + _GAP * (len(rows) - 1) + below
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        text = partial(figure.text, va="top", ha="left", linespacing=1.3)
        text(_EDGE / width, 1 - 14 / height, title, size=14, weight="bold")
        y = height - 44
        for row, head, row_height in zip(rows, heads, heights, strict=True):
            for column, panel in enumerate(row):
                x = _EDGE + column * (WIDTH + _GAP)
                text(x / width, y / height, names[panel.title], size=12, weight="bold")
                _place(figure, panel, x, y - head - panel.height)
            y -= head + row_height + _GAP
        if handles:
            figure.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(_EDGE / width, (below - 8) / height),
                borderaxespad=0,
                borderpad=0,
                frameon=False,
                ncols=legend_columns,
                handlelength=2.4,
                columnspacing=1.6,
                labelspacing=0.35,
            )
        y = (below - 8 - legend_height) / height
        text(_EDGE / width, y, "\n".join(notes), size=10, color=MUTED)
    return figure


def label_axes(axes: Axes, x: str, y: str = "") -> None:
    """Label the axes and format their ticks; the y label is horizontal, above the axis."""
    axes.set_xlabel(x)
    if y:
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(y, (0, 1), xytext=(-Panel.left, 11), color=MUTED, **place)
    for axis in (axes.xaxis, axes.yaxis) if y else (axes.xaxis,):
        axis.set_major_formatter(FuncFormatter(format_tick))
        axis.set_major_locator(MaxNLocator(5))


def _place(figure: Figure, panel: Panel, x: float, y: float) -> None:
    width, height = figure.get_size_inches() * 72
    box = (
        (x + panel.left) / width,
        (y + panel.bottom) / height,
        (WIDTH - panel.left - panel.right) / width,
        (panel.height - panel.top - panel.bottom) / height,
    )
    panel.draw(figure.add_axes(box, projection="polar" if panel.polar else None))


def _legend_handle(label: str, style: LineStyle) -> Line2D:
    line = Line2D([], [], **style._asdict(), markersize=5)
    # Matplotlib leaves out a label that begins with an underscore if the constructor sets it.
    line.set_label(label)
    return line
