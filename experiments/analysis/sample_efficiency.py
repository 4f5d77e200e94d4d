"""Learning speed of a training, from the returns of its episodes."""

from __future__ import annotations

import math

import numpy as np

from spangym.experiments.analysis.intervals import Floats

SMOOTHING = 0.1
"""Fraction of a training over which returns are averaged."""


def area_under_curve(steps: Floats, returns: Floats) -> float:
    """Mean return over a training: the area under its curve, divided by its steps.

    Args:
        steps: Training steps at the end of each episode, shape (episodes,); several episodes may
            end at the same step.
        returns: Return of each episode, shape (episodes,).

    Example:
        >>> area_under_curve(np.array([10.0, 20.0, 40.0]), np.array([0.0, 2.0, 4.0]))
        2.5
    """
    ends, sums, counts = _by_step(steps, returns)
    return float(np.average(sums / counts, weights=np.diff(ends, prepend=0)))


def sample_efficiency(
    steps: Floats, returns: Floats, start: float, fraction: float = 0.95
) -> float:
    """Steps until a training has gained most of the way to its own final level.

    Levels are means over the preceding tenth of the training, so that nothing is found before a
    tenth. The number tells the speed of learning, not its result.

    Args:
        steps: Training steps at the end of each episode, shape (episodes,).
        returns: Return of each episode, shape (episodes,).
        start: Return from which the gain is measured, for example that of random actions.
        fraction: Fraction of the gain.

    Returns:
        Environment steps; NaN if the final level is not above the start.

    Example:
        >>> steps = np.arange(1.0, 101.0)
        >>> sample_efficiency(steps, np.minimum(steps, 50.0), start=0.0)
        53.0
    """
    ends, sums, counts = _by_step(steps, returns)
    window = SMOOTHING * ends[-1]
    # The margin keeps rounding from moving the start of a window across the end of an episode.
    first = np.searchsorted(ends, ends - window + 1e-9 * window, side="right")
    sums, counts = (np.concatenate([[0.0], each.cumsum()]) for each in (sums, counts))
    levels = (sums[1:] - sums[first]) / (counts[1:] - counts[first])
    if not levels[-1] > start:
        return math.nan
    reached = (levels >= start + fraction * (levels[-1] - start)) & (ends >= window)
    return float(ends[reached.argmax()])


def _by_step(steps: Floats, returns: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct steps in order, and the sum and number of the returns at each."""
    ends, position = np.unique(steps, return_inverse=True)
    sums, counts = np.bincount(position, returns), np.bincount(position)
    return ends, sums.astype(float), counts.astype(float)
