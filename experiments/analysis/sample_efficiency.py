"""How soon a training got anywhere, from the returns of its episodes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spangym.experiments.analysis.intervals import Floats

SMOOTHED = 0.1
"""Part of a training over which its returns are averaged."""


def area_under_curve(steps: Floats, returns: Floats) -> float:
    """Mean return over a training: the area under its curve, over its steps.

    Args:
        steps: When episodes ended, of shape (episodes,); several may have ended together.
        returns: What they returned, of the same shape.

    Example:
        >>> area_under_curve(np.array([10.0, 20.0, 40.0]), np.array([0.0, 2.0, 4.0]))
        2.5
    """
    ends, sums, counts = _by_step(steps, returns)
    return float(np.average(sums / counts, weights=np.diff(ends, prepend=0)))


def sample_efficiency(steps: Floats, returns: Floats, start: float, part: float = 0.95) -> float:
    """Steps until a training had come most of the way to its own last level.

    Levels are means over the tenth of the training before, so nothing sooner than a tenth is seen.
    It says how soon, not how well: it needs the last level beside it.

    Args:
        steps: When episodes ended, of shape (episodes,); several may have ended together.
        returns: What they returned, of the same shape.
        start: Return from which it is counted, say that of random decisions.
        part: Of the way.

    Returns:
        Environment steps; NaN if the last level is not above the start.

    Example:
        >>> steps = np.arange(1.0, 101.0)
        >>> sample_efficiency(steps, np.minimum(steps, 50.0), start=0.0)
        53.0
    """
    ends, sums, counts = _by_step(steps, returns)
    window = SMOOTHED * ends[-1]
    # Lest the end of a window lie a rounding before or behind an episode's end.
    before = np.searchsorted(ends, ends - window + 1e-9 * window, side="right")
    levels = _between(sums, before) / _between(counts, before)
    if not levels[-1] > start:
        return math.nan
    reached = (levels >= start + part * (levels[-1] - start)) & (ends >= window)
    return float(ends[reached.argmax()])


def _by_step(steps: Floats, returns: Floats) -> tuple[Floats, Floats, Floats]:
    """Ends of episodes in order, and the sum and the number of the returns of each."""
    ends, position = np.unique(steps, return_inverse=True)
    sums, counts = np.bincount(position, returns), np.bincount(position)
    return ends, sums.astype(float), counts.astype(float)


def _between(values: Floats, before: NDArray[np.intp]) -> Floats:
    sums = np.concatenate([[0.0], values.cumsum()])
    return sums[1:] - sums[before]
