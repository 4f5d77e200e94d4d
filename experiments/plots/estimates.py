"""Estimates with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes

from spangym.experiments.plots.panels import Panel, label_axes
from spangym.experiments.plots.style import (
    BASELINE_STYLE,
    BG,
    FG,
    MUTED,
    LineStyle,
    truncate_middle,
)

PROBABILITY = "probability"
"""Name of an axis from 0 to 1."""

_ROW, _FOOT = 38, 6


@dataclass(frozen=True)
class Estimate:
    """A row of a panel.

    Attributes:
        label: What stands above it.
        line_style: Of its marker and line.
        value: The estimate.
        low: The interval's lower bound; NaN if there is none.
        high: The upper.
        settled: Whether the marker is filled.
    """

    label: str
    line_style: LineStyle
    value: float
    low: float
    high: float
    settled: bool = True


def plot_estimates(
    title: str, rows: Sequence[Estimate], x: str, line: float | None = None, *, zero: bool = False
) -> Panel:
    """A panel of estimates, one below the other.

    Args:
        title: What it shows.
        rows: At least one.
        x: Name of the axis.
        line: Where an upright line is drawn.
        zero: Whether the axis begins at 0.
    """
    height = len(rows) * _ROW + _FOOT + 4 + Panel.bottom
    return Panel(title, partial(_draw, rows, x, line, zero), height, left=4, right=14, top=4)


def _draw(rows: Sequence[Estimate], x: str, line: float | None, zero: bool, axes: Axes) -> None:
    if line is not None:
        axes.axvline(line, color=FG, linewidth=0.9)
    for position, row in enumerate(rows):
        place = position * _ROW + 27
        color = row.line_style.color
        if not math.isnan(row.low + row.high):
            axes.plot([row.low, row.high], [place] * 2, color=color, linewidth=2.2)
        axes.plot(
            [row.value],
            [place],
            color=color,
            marker=row.line_style.marker,
            markersize=6.5,
            markerfacecolor=color if row.settled else BG,
            linestyle="none",
        )
        axes.annotate(
            truncate_middle(row.label, 48),
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(0, 10),
            textcoords="offset points",
            color=MUTED if row.line_style.linestyle == BASELINE_STYLE.linestyle else FG,
        )
    axes.set_ylim(len(rows) * _ROW + _FOOT, 0)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    label_axes(axes, x)
    if zero:
        axes.set_xlim(left=0)
    if x == PROBABILITY:
        axes.set_xlim(-0.02, 1.02)
