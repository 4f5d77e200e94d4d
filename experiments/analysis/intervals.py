"""95 % confidence intervals that keep their coverage with few training seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Strata = Sequence[NDArray[Any]]
"""Scores by environment, each of shape (..., seeds)."""

CONFIDENCE = 0.95
RESAMPLES = 2000


def t_interval(values: Floats) -> tuple[Floats, Floats]:
    """Student's t interval of a mean.

    Args:
        values: Independent values, one for each training seed, shape (..., seeds).

    Returns:
        Lower and upper bounds, each of shape (...); NaN for a single seed.

    Example:
        >>> low, high = t_interval(np.array([1.0, 2.0, 3.0]))
        >>> print(f"{low:.3f} to {high:.3f}")
        -0.484 to 4.484
    """
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = _quantile(count - 1) * values.std(-1, ddof=1) / np.sqrt(count)
    return mean - half, mean + half


def bootstrap_ci(
    statistic: Callable[[Strata], Floats],
    strata: Strata,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """Interval of a statistic over several environments, from a stratified bootstrap.

    Seeds are resampled within each environment. Percentiles of the resampled statistic would be too
    narrow for few seeds: a resample of n seeds spreads less than n seeds, by ``sqrt((n - 1) / n)``,
    and they treat that spread as known (Hesterberg 2015, "What Teachers Should Know About the
    Bootstrap"). The interval is therefore the estimate plus and minus Student's quantile times the
    standard deviation of the resamples, corrected by that factor. Degrees of freedom follow
    Satterthwaite (1946), with each environment's part of the variance from the jackknife (Efron
    1982). For the mean of one environment it equals `t_interval`.

    Args:
        statistic: Function of scores by environment, from shapes (..., seeds) to shape (...).
        strata: Scores by environment, of shapes (..., seeds) with the same leading axes.
        generator: Draws the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper bounds, each of the statistic's shape; NaN if an environment has a single
        seed.

    Example:
        >>> scores = [np.array([0.1, 0.3, 0.2]), np.array([0.6, 0.9, 0.8, 0.7])]
        >>> def mean(strata):
        ...     return np.mean([each.mean(-1) for each in strata], axis=0)
        >>> low, high = bootstrap_ci(mean, scores, np.random.default_rng(0))
        >>> print(f"{low:.2f} to {high:.2f}")
        0.36 to 0.59
    """
    estimate = statistic(strata)
    counts = np.array([each.shape[-1] for each in strata])
    if counts.min() < 2:
        return np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    draws = (generator.integers(count, size=(resamples, count)) for count in counts)
    resampled = [each[..., drawn] for each, drawn in zip(strata, draws, strict=True)]
    spread = statistic(resampled).std(-1)
    parts = _parts_of_variance(statistic, strata)
    freedom = 1 / (parts**2 / (counts - 1)).sum(-1)
    shrinkage = np.sqrt((parts * (counts - 1) / counts).sum(-1))
    half = _quantile(freedom) * spread / shrinkage
    return estimate - half, estimate + half


def bootstrap_ci_proportion(
    statistic: Callable[[Strata], Floats],
    strata: Strata,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """`bootstrap_ci` of a proportion or probability, clipped to [0, 1].

    Bounds are NaN if all runs agree: so do all resamples, and their spread says nothing.

    Args:
        statistic: Function of scores by environment, from shapes (..., seeds) to shape (...).
        strata: Scores by environment, of shapes (..., seeds) with the same leading axes.
        generator: Draws the resamples.
        resamples: Number of resamples.
    """
    low, high = bootstrap_ci(statistic, strata, generator, resamples)
    certain = np.isclose(low, high, rtol=0, atol=1e-12)
    low, high = (np.where(certain, np.nan, np.clip(each, 0, 1)) for each in (low, high))
    return low, high


def _parts_of_variance(statistic: Callable[[Strata], Floats], strata: Strata) -> Floats:
    """Each environment's part of the statistic's variance, by leaving out each seed in turn.

    Of shape (..., environments); equal parts if nothing varies.
    """
    variances = []
    for position, scores in enumerate(strata):
        count = scores.shape[-1]
        without = [
            np.broadcast_to(each[..., None, :], (*each.shape[:-1], count, each.shape[-1]))
            for each in strata
        ]
        kept = np.nonzero(~np.eye(count, dtype=bool))[1].reshape(count, count - 1)
        without[position] = scores[..., kept]
        variances.append((count - 1) * statistic(without).var(-1))
    stacked = np.stack(variances, axis=-1)
    total = stacked.sum(-1, keepdims=True)
    equal = np.full_like(stacked, 1 / len(strata))
    return np.divide(stacked, total, out=equal, where=total > 0)


def _quantile(freedom: Floats | int) -> Floats:
    return stats.t.ppf((1 + CONFIDENCE) / 2, freedom)
