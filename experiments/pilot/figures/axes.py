"""Axes of errors and losses."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from spangym.experiments.plots.curve_utils import line_ydata, ylim_from_lines
from spangym.experiments.plots.style import format_tick

_WIDE = 8.0
"""From this ratio of its ends on, an axis has ticks at 1, 2 and 5 of each power of ten."""


def scale_errors(axes: Axes) -> None:
    """Let equal ratios of what is drawn be equally far: one that is far off hides no others."""
    if not (line_ydata(axes) > 0).any():
        return
    axes.set_yscale("log", nonpositive="clip")
    low, high = ylim_from_lines(axes)
    axes.set_ylim(low, high)
    # With the scale came its own ticks and texts.
    wide = high / low > _WIDE
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.yaxis.set_minor_locator(NullLocator())
