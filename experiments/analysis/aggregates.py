"""What is said of an agent over several environments, in one number.

Scores come by environment, each an array whose last axis is the training seeds: their numbers may
differ, since trials can fail. Every environment counts the same. Leading axes, say of resamples,
are carried along. With equal numbers of seeds these are the statistics of Agarwal et al. 2021,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from spangym.experiments.analysis.intervals import Floats, Strata

ROUNDING = 1e-6
"""Returns are sums of float32 rewards: what differs less than this, relatively, is equal."""


def interquartile_mean(strata: Strata) -> Floats:
    """Mean of the middle half of all runs: less noise than a median, less swayed than a mean.

    A whole number of runs is cut off at each end. Where environments differ in their numbers of
    seeds, a run weighs the less the more of its environment there are.

    Args:
        strata: Scores by environment, each of shape (..., seeds).

    Returns:
        Of shape (...).

    Example:
        >>> float(interquartile_mean([np.array([0.0, 0.5]), np.array([0.7, 9.0])]))
        0.6
    """
    scores = np.concatenate(strata, axis=-1)
    counts = [each.shape[-1] for each in strata]
    if len(set(counts)) == 1:
        return stats.trim_mean(scores, 0.25, axis=-1)
    weights = np.concatenate([np.full(count, 1 / (count * len(counts))) for count in counts])
    order = scores.argsort(-1)
    weights = weights[order]
    ends = weights.cumsum(-1)
    cut = int(0.25 * sum(counts)) / sum(counts)
    kept = np.clip(np.minimum(ends, 1 - cut) - np.maximum(ends - weights, cut), 0, None)
    return (np.take_along_axis(scores, order, -1) * kept).sum(-1) / (1 - 2 * cut)


def median(strata: Strata) -> Floats:
    """Median over environments of the mean over seeds.

    Where several environments are about as hard its interval promises too much: the middle one of
    several noisy means is not the middle one of the true means.

    Args:
        strata: Scores by environment, each of shape (..., seeds).

    Returns:
        Of shape (...).
    """
    return np.median(_means(strata), axis=-1)


def mean(strata: Strata) -> Floats:
    """Mean over environments of the mean over seeds.

    Args:
        strata: Scores by environment, each of shape (..., seeds).

    Returns:
        Of shape (...).
    """
    return _means(strata).mean(-1)


def optimality_gap(strata: Strata) -> Floats:
    """How much runs fall short of the oracle's score, 1; what lies above it does not make up.

    Args:
        strata: Scores by environment, each of shape (..., seeds).

    Returns:
        Of shape (...).

    Example:
        >>> float(optimality_gap([np.array([0.5, 2.0])]))
        0.25
    """
    return 1 - mean([np.minimum(each, 1) for each in strata])


def probability_of_improvement(first: Strata, second: Strata) -> Floats:
    """Probability that a run of one agent scores above a run of another in the same environment.

    The mean over environments of Mann and Whitney's statistic; what is equal but for rounding
    counts half.

    Args:
        first: The one's scores by environment, each of shape (..., seeds).
        second: The other's, in the same environments.

    Returns:
        Of shape (...).

    Example:
        >>> float(probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0])]))
        0.75
    """
    return np.mean([_share_of_wins(*each) for each in zip(first, second, strict=True)], axis=0)


def _share_of_wins(one: Floats, other: Floats) -> Floats:
    """Mann and Whitney's statistic by ranks, which thousands of resamples need no pairs for."""
    runs, others = one.shape[-1], other.shape[-1]
    leading = np.broadcast_shapes(one.shape[:-1], other.shape[:-1])
    pooled = np.concatenate(
        [np.broadcast_to(one, (*leading, runs)), np.broadcast_to(other, (*leading, others))], -1
    )
    order = np.argsort(pooled, axis=-1)
    values = np.take_along_axis(pooled, order, -1)
    apart = np.diff(values) > ROUNDING * (1 + np.abs(values[..., 1:]))
    edge = np.ones((*leading, 1), bool)
    places = np.arange(runs + others)
    # What is tied shares the mean of its first and its last place.
    first = np.maximum.accumulate(np.where(np.concatenate([edge, apart], -1), places, 0), -1)
    last = np.where(np.concatenate([apart, edge], -1), places, runs + others)
    last = np.minimum.accumulate(last[..., ::-1], -1)[..., ::-1]
    ranks = (first + last) / 2 + 1
    wins = np.where(order < runs, ranks, 0).sum(-1) - runs * (runs + 1) / 2
    return wins / (runs * others)


def performance_profile(strata: Strata, thresholds: ArrayLike) -> Floats:
    """Share of the runs that score above thresholds.

    Args:
        strata: Scores by environment, each of shape (..., seeds).
        thresholds: Of shape (thresholds,).

    Returns:
        Of shape (..., thresholds).

    Example:
        >>> performance_profile([np.array([0.2, 0.8])], [0.0, 0.5, 1.0]).tolist()
        [1.0, 0.5, 0.0]
    """
    return mean(runs_above(strata, thresholds))


def runs_above(strata: Strata, thresholds: ArrayLike) -> Strata:
    """Which runs score above thresholds: their `mean` is the `performance_profile`.

    Args:
        strata: Scores by environment, each of shape (..., seeds).
        thresholds: Of shape (thresholds,).

    Returns:
        By environment, each of shape (..., thresholds, seeds).
    """
    return [each[..., None, :] > np.asarray(thresholds)[:, None] for each in strata]


def _means(strata: Strata) -> Floats:
    """Of shape (..., environments)."""
    return np.stack([each.mean(-1) for each in strata], axis=-1)
