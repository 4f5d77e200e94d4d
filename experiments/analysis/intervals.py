"""Intervals of 95 % that hold what they promise with few training seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Strata = Sequence[NDArray[Any]]
"""Scores by environment, each of shape (..., seeds of that environment)."""

CONFIDENCE = 0.95
RESAMPLES = 2000


def t_interval(values: Floats) -> tuple[Floats, Floats]:
    """Interval of a mean, by Student's t.

    The values must be independent: one for each training seed. With three of them the interval is
    wide (4.3 standard errors); that is what three seeds can say.

    Args:
        values: Of shape (..., seeds).

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
    """Interval of a statistic over several environments, by a stratified bootstrap.

    Seeds are drawn anew within each environment. The usual percentiles of the statistics that come
    of it make too narrow an interval where seeds are few, for two reasons: a resample of n seeds
    spreads less than n seeds do, by ``sqrt((n - 1) / n)``, and a normal quantile takes that
    spread for known (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). So this is
    the estimate and, to both sides, Student's quantile times the standard deviation of the
    resamples, put right by that factor. Percentiles at a more extreme level would mend the same,
    but four seeds of one environment would need the most extreme of 8,000 resamples, and their
    least likely one comes once in 256 times.

    An environment whose seeds differ more than another's counts for more in the degrees of freedom
    (Satterthwaite 1946), by its part of the variance (Efron's jackknife, 1982). For the mean of
    one environment all this comes to `t_interval`.

    Args:
        statistic: From scores by environment, of shapes (..., seeds), to shape (...).
        strata: Scores by environment, of shapes (..., seeds) with the same leading axes.
        generator: Draws the resamples.
        resamples: How many.

    Returns:
        Lower and upper bounds, each of the statistic's shape; NaN where an environment has a
        single seed, from which nothing is known of its spread.

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
    narrowness = np.sqrt((parts * (counts - 1) / counts).sum(-1))
    half = _quantile(freedom) * spread / narrowness
    return estimate - half, estimate + half


def bootstrap_ci_proportion(
    statistic: Callable[[Strata], Floats],
    strata: Strata,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """`bootstrap_ci` of a share or a probability: within 0 and 1.

    Where all runs say the same, say that one agent is always ahead, so do all resamples. That does
    not make it certain: the bounds are NaN there.

    Args:
        statistic: From scores by environment, of shapes (..., seeds), to shares of shape (...).
        strata: Scores by environment, of shapes (..., seeds) with the same leading axes.
        generator: Draws the resamples.
        resamples: How many.

    Example:
        >>> def above_half(strata):
        ...     return np.mean([(each > 0.5).mean(-1) for each in strata], axis=0)
        >>> scores = [np.array([0.6, 0.7, 0.9])]
        >>> bounds = bootstrap_ci_proportion(above_half, scores, np.random.default_rng(0))
        >>> print(*bounds)
        nan nan
    """
    low, high = bootstrap_ci(statistic, strata, generator, resamples)
    certain = np.isclose(low, high, rtol=0, atol=1e-12)
    low, high = (np.where(certain, np.nan, np.clip(each, 0, 1)) for each in (low, high))
    return low, high


def _parts_of_variance(statistic: Callable[[Strata], Floats], strata: Strata) -> Floats:
    """Parts of the statistic's variance that come from each environment's seeds.

    Each seed is left out in turn. Of shape (..., environments); equal where nothing varies.
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
