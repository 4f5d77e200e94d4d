"""Lines of trainings: the mean over seeds, with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spangym.experiments.analysis.intervals import t_interval
from spangym.experiments.plots.labels import Floats
from spangym.experiments.plots.style import LineStyle

POINTS = 200
"""Of a line."""

_ROOM = 0.3
"""Beyond the lines, as a share of what lies between them; wider bands are cut off."""


@dataclass(frozen=True)
class SeedCurves:
    """Trainings that differ in their seed alone, on a common grid.

    Attributes:
        label: Whose they are.
        x: Where the points are, of shape (points,).
        values: Of shape (seeds, points).
    """

    label: str
    x: Floats
    values: Floats

    @property
    def mean(self) -> Floats:
        """Over the seeds."""
        return self.values.mean(0)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """Bounds of the 95 % interval of the mean; NaN for a single seed."""
        return t_interval(self.values.T)

    def draw(
        self, axes: Axes, line_style: LineStyle, alpha: float, markers: slice | None = None
    ) -> Line2D:
        """Draw line and band.

        Args:
            axes: Where.
            line_style: How.
            alpha: How opaque the band is.
            markers: Points that get a marker; none if left out, but one where there is no line.
        """
        # A single point makes no line.
        marker = line_style.marker if markers is not None or self.x[0] == self.x[-1] else None
        style = {"color": line_style.color, "linestyle": line_style.linestyle, "marker": marker}
        (line,) = axes.plot(
            self.x, self.mean, linewidth=1.6, markersize=5, markevery=markers, **style
        )
        line.set_label(self.label)
        shade = {"color": line_style.color, "alpha": alpha, "linewidth": 0}
        axes.fill_between(self.x, *self.interval, **shade)
        return line


def ylim_from_lines(axes: Axes) -> tuple[float, float]:
    """Limits that leave room for the bands, but not for what two seeds make of them."""
    lines = line_ydata(axes)
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        lines = lines[lines > 0]
        room = (lines.max() / lines.min()) ** _ROOM if lines.max() > lines.min() else 1.5
        return max(low, lines.min() / room), min(high, lines.max() * room)
    room = _ROOM * (lines.max() - lines.min() or 1.0)
    return max(low, lines.min() - room), min(high, lines.max() + room)


def line_ydata(axes: Axes) -> Floats:
    """How high the points of all lines are, but for upright ones from end to end."""
    return np.concatenate(
        [
            np.asarray(line.get_ydata(), float)
            for line in axes.lines
            if line.get_transform().contains_branch_seperately(axes.transData)[1]
        ]
    )


def shared_grid(ends: Sequence[Floats]) -> Floats:
    """Points within what all trainings have gone through.

    Args:
        ends: Of each training when something was measured, in order.
    """
    first = max(each[0] for each in ends)
    return np.linspace(first, max(first, min(each[-1] for each in ends)), POINTS)


def moving_average_on_grid(ends: Floats, values: Floats, grid: Floats, window: float) -> Floats:
    """A training curve on a grid of steps.

    Args:
        ends: Steps at which something was measured, the end of an episode say, in order.
        values: What was measured.
        grid: Steps, none before the first end.
        window: How many steps are averaged over.

    Returns:
        For each step of the grid the mean of what was measured in the window before it, or of what
        was measured last.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    until = np.searchsorted(ends, grid, side="right")
    # Where nothing was measured in time, the last: several, if environments ended together.
    last = np.searchsorted(ends, ends[until - 1], side="left")
    since = np.minimum(np.searchsorted(ends, grid - window, side="right"), last)
    return (sums[until] - sums[since]) / (until - since)


def interp_on_grid(grid: Floats, ends: Floats, values: Floats) -> Floats:
    """Values between ends; where environments ended together, the last."""
    last = np.flatnonzero(np.diff(ends, append=np.inf))
    return np.interp(grid, ends[last], values[last])
