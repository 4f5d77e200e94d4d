"""Figures are made of panels: drawn together in a figure, or each for itself in a report."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from spangym.experiments.plots.style import MUTED, STYLE, LineStyle, format_tick, truncate_middle

WIDTH = 380
"""Of a panel; lengths are points in a figure, pixels in a report."""

_COLUMNS, _GAP, _EDGE, _LINE = 3, 24, 18, 16


class NoData(Exception):  # noqa: N818
    """The rows have nothing for a figure; its message says why."""


@dataclass(frozen=True)
class Panel:
    """A part of a figure with axes of its own.

    Attributes:
        title: What it shows: an environment, a statistic.
        draw: Draws it.
        height: Of the whole.
        left: Margin of the axes; so are the others.
        right: Margin.
        top: Margin.
        bottom: Margin.
        polar: Whether the axes are.
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
    """The rows of a small table."""
    return cast("list[dict[str, Any]]", table.to_dict("records"))


def render_panel(panel: Panel) -> Figure:
    """A figure of one panel, without its title."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, panel.height / 72))
        _place(figure, panel, 0, 0)
    return figure


def legend_swatch(line_style: LineStyle) -> Figure:
    """A figure of nothing but a line and its marker, for a legend."""
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
    panels: Sequence[Panel], title: str, caption: str, legend: Sequence[tuple[str, LineStyle]]
) -> Figure:
    """A figure of all panels with title, legend and caption.

    Args:
        panels: At least one.
        title: Of the figure.
        caption: How to read it.
        legend: Labels and their looks.
    """
    columns = 2 if len(panels) in (2, 4) else min(_COLUMNS, len(panels))
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heads = [max(_LINE * len(_wrapped(each.title)) for each in line) + 6 for line in lines]
    heights = [max(panel.height for panel in line) for line in lines]
    width = columns * WIDTH + (columns - 1) * _GAP + 2 * _EDGE
    notes = textwrap.wrap(caption, int((width - 2 * _EDGE) / 5.5))
    named = [(truncate_middle(label, 56), line_style) for label, line_style in legend]
    across = _columns_of_legend([label for label, _ in named], width - 2 * _EDGE)
    legend_height = 15.4 * -(-len(named) // across) + 14 if named else 0
    below = legend_height + 15 * len(notes) + _EDGE + 4
    height = 44 + sum(heads) + sum(heights) + _GAP * (len(lines) - 1) + below
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72))
        text_at = {"va": "top", "ha": "left", "linespacing": 1.3}
        figure.text(_EDGE / width, 1 - 14 / height, title, size=14, weight="bold", **text_at)
        y = height - 44
        for line, head, tallest in zip(lines, heads, heights, strict=True):
            for column, panel in enumerate(line):
                x = _EDGE + column * (WIDTH + _GAP)
                name = "\n".join(_wrapped(panel.title))
                figure.text(x / width, y / height, name, size=12, weight="bold", **text_at)
                _place(figure, panel, x, y - head - panel.height)
            y -= head + tallest + _GAP
        if named:
            figure.legend(
                handles=[_handle(label, line_style) for label, line_style in named],
                loc="upper left",
                bbox_to_anchor=(_EDGE / width, (below - 8) / height),
                borderaxespad=0,
                borderpad=0,
                frameon=False,
                ncols=across,
                handlelength=2.4,
                columnspacing=1.6,
                labelspacing=0.35,
            )
        where = (_EDGE / width, (below - 8 - legend_height) / height)
        figure.text(*where, "\n".join(notes), size=10, color=MUTED, **text_at)
    return figure


def label_axes(axes: Axes, x: str, y: str = "") -> None:
    """Name the axes: y above, where the name takes no width and is read straight."""
    axes.set_xlabel(x)
    axes.xaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if y:
        axes.annotate(
            y,
            (0, 1),
            xytext=(-Panel.left, 11),
            xycoords="axes fraction",
            textcoords="offset points",
            color=MUTED,
        )
        axes.yaxis.set_major_formatter(FuncFormatter(format_tick))
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _place(figure: Figure, panel: Panel, x: float, y: float) -> None:
    width, height = figure.get_size_inches() * 72
    box = (
        (x + panel.left) / width,
        (y + panel.bottom) / height,
        (WIDTH - panel.left - panel.right) / width,
        (panel.height - panel.top - panel.bottom) / height,
    )
    panel.draw(figure.add_axes(box, projection="polar" if panel.polar else None))


def _handle(label: str, line_style: LineStyle) -> Line2D:
    line = Line2D(
        [],
        [],
        color=line_style.color,
        linestyle=line_style.linestyle,
        marker=line_style.marker,
        markersize=5,
    )
    # A label that begins with an underscore would be left out if it were given to the line's maker.
    line.set_label(label)
    return line


def _columns_of_legend(labels: Sequence[str], width: float) -> int:
    widest = max((7.2 * len(label) + 52 for label in labels), default=width)
    return max(1, min(len(labels), int(width / widest)))


def _wrapped(title: str) -> list[str]:
    return textwrap.wrap(title, 44)
