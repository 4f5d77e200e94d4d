"""Statistics over several environments, as in Agarwal et al. 2021.

"Deep Reinforcement Learning at the Edge of the Statistical Precipice". All functions take scores
by environment, each an array of shape (..., seeds): numbers of seeds may differ, since trials can
fail, and every environment has the same weight. Leading axes, of resamples say, are kept: they
return shape (...).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from spangym.experiments.analysis.intervals import Floats, Strata

ROUNDING = 1e-6
"""Relative difference up to which returns, sums of float32 rewards, are equal."""


def interquartile_mean(strata: Strata) -> Floats:
    """Mean of the middle half of all runs: less noisy than a median, more robust than a mean.

    A whole number of runs is cut off at each end. If environments differ in their number of seeds,
    runs are weighted.

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

    Its interval is too narrow if several environments are about equally hard: the median of noisy
    means is not the median of the true means.
    """
    return np.median(_means(strata), axis=-1)


def mean(strata: Strata) -> Floats:
    """Mean over environments of the mean over seeds."""
    return _means(strata).mean(-1)


def optimality_gap(strata: Strata) -> Floats:
    """Mean distance to the oracle's score, 1; scores above it count as 1.

    Example:
        >>> float(optimality_gap([np.array([0.5, 2.0])]))
        0.25
    """
    return 1 - mean([np.minimum(each, 1) for each in strata])


def probability_of_improvement(first: Strata, second: Strata) -> Floats:
    """Probability that a run of the first agent scores higher than a run of the second.

    It is the mean over environments of the Mann-Whitney statistic; ties up to rounding count half.

    Example:
        >>> float(probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0])]))
        0.75
    """
    return np.mean([_mann_whitney(*each) for each in zip(first, second, strict=True)], axis=0)


def _mann_whitney(first: Floats, second: Floats) -> Floats:
    """Mann-Whitney statistic by ranks, without all pairs: there are thousands of resamples."""
    runs, others = first.shape[-1], second.shape[-1]
    leading = np.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    pooled = np.concatenate(
        [np.broadcast_to(first, (*leading, runs)), np.broadcast_to(second, (*leading, others))], -1
    )
    order = np.argsort(pooled, axis=-1)
    values = np.take_along_axis(pooled, order, -1)
    differs = np.diff(values) > ROUNDING * (1 + np.abs(values[..., 1:]))
    edge = np.ones((*leading, 1), bool)
    places = np.arange(runs + others)
    # Ties share the mean of their first and last rank.
    low = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -1), places, 0), -1)
    high = np.where(np.concatenate([differs, edge], -1), places, runs + others)
    high = np.minimum.accumulate(high[..., ::-1], -1)[..., ::-1]
    ranks = (low + high) / 2 + 1
    wins = np.where(order < runs, ranks, 0).sum(-1) - runs * (runs + 1) / 2
    return wins / (runs * others)


def performance_profile(strata: Strata, thresholds: ArrayLike) -> Floats:
    """Proportion of runs that score above each threshold, shape (..., thresholds).

    Example:
        >>> performance_profile([np.array([0.2, 0.8])], [0.0, 0.5, 1.0]).tolist()
        [1.0, 0.5, 0.0]
    """
    return mean(runs_above(strata, thresholds))


def runs_above(strata: Strata, thresholds: ArrayLike) -> Strata:
    """Whether runs score above each threshold: by environment, shape (..., thresholds, seeds)."""
    return [each[..., None, :] > np.asarray(thresholds)[:, None] for each in strata]


def _means(strata: Strata) -> Floats:
    """Means over seeds, shape (..., environments)."""
    return np.stack([each.mean(-1) for each in strata], axis=-1)
