"""Figures of made-up rows, and what is on them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.panels import Panel, render_panel
from spangym.experiments.plots.plot_data import PlotData

from .synthetic import make_statistics


def plot_data_of(results: Results, **changes: Any) -> PlotData:
    """What figures of the rows are drawn from."""
    return PlotData(results, make_statistics(results), **changes)


def drawn(panel: Panel) -> Axes:
    """The axes of a panel."""
    return render_panel(panel).axes[0]


def figure_of(axes: Axes) -> Figure:
    """The figure that axes are in."""
    assert isinstance(axes.figure, Figure)
    return axes.figure


def line_of(axes: Axes, label: str) -> Line2D:
    """The one line of a label."""
    (line,) = [each for each in axes.lines if each.get_label() == label]
    return line


def xs(line: Line2D) -> list[float]:
    """Where the points of a line are."""
    return np.asarray(line.get_xdata(), float).tolist()


def ys(line: Line2D) -> list[float]:
    """How high the points of a line are."""
    return np.asarray(line.get_ydata(), float).tolist()


def texts(figure: Figure) -> list[Text]:
    """What is to be read on a figure, which is drawn for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        FigureCanvasAgg(figure).draw()
    found = (each for each in figure.findobj(Text) if isinstance(each, Text))
    return [each for each in found if each.get_visible() and each.get_text().strip()]
