"""Quality and cost of policies at several cost coefficients, and the hypervolume they dominate."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from spangym.agents.registry import fixed_action_of
from spangym.experiments.analysis.results import KEYS, MetricInfo

HYPERVOLUME = "hypervolume"
_COST_COLUMN = "reward_cost"
_RETURN_AT = "return at cost "


def hypervolume(costs: ArrayLike, qualities: ArrayLike) -> float:
    """Area that points of cost and quality dominate, from the reference point (1, 0).

    A point dominates all points of a higher cost and a lower quality (Zitzler and Thiele, 1999).

    Args:
        costs: Costs, of which those above 1 count nothing, shape (points,).
        qualities: Qualities, of which those below 0 count nothing, shape (points,).

    Example:
        >>> hypervolume([0.25, 0.5, 0.75], [0.5, 1.0, 0.75])
        0.625
    """
    points = sorted(zip(np.clip(costs, None, 1), np.clip(qualities, 0, None), strict=True))
    ends = [cost for cost, _ in points[1:]] + [1.0]
    best = itertools.accumulate((quality for _, quality in points), max)
    widths = (end - cost for (cost, _), end in zip(points, ends, strict=True))
    return float(sum(width * height for width, height in zip(widths, best, strict=True)))


def tradeoff_points(episodes: pd.DataFrame, full_qk_pairs: float) -> pd.DataFrame | None:
    """Mean return, quality and cost of one policy at each cost coefficient.

    Args:
        episodes: Evaluation episodes.
        full_qk_pairs: Query-key pairs of full attention in an episode.

    Returns:
        Columns ``cost_coef``, ``return``, ``quality`` (the return without the cost) and ``cost``
        (share of query-key pairs); None if the episodes are not of several coefficients, or the
        reward has no component ``cost``.
    """
    if not {"cost_coef", _COST_COLUMN} <= {*episodes.columns}:
        return None
    quality = episodes["return"] - episodes[_COST_COLUMN]
    numbers = episodes.assign(quality=quality, cost=episodes["qk_pairs"] / full_qk_pairs)
    columns = ["return", "quality", "cost"]
    return pd.DataFrame(numbers.groupby("cost_coef", as_index=False)[columns].mean())


def tradeoff_metrics(points: pd.DataFrame) -> pd.DataFrame:
    """Hypervolume and return at each cost coefficient of every trial.

    The reference point of the hypervolume is the quality of the shortest fixed span at the cost of
    full attention; its unit is the area from there to the quality of the longest fixed span at no
    cost. It is NaN without these two, or if the longest is not of higher quality.

    Args:
        points: Rows of `tradeoff_points`, with the columns `KEYS`.

    Returns:
        One row for each trial, with the columns `KEYS`, `HYPERVOLUME` and one for each coefficient.
    """
    by_trial: dict[Any, pd.DataFrame] = dict(list(points.groupby([*KEYS])))
    fixed: dict[str, dict[int, float]] = {}
    for (environment, group, _), own in by_trial.items():
        if (action := fixed_action_of(group)) is not None:
            quality = float(own["quality"].to_numpy(float).mean())
            fixed.setdefault(environment, {})[action] = quality
    rows = []
    for key, own in by_trial.items():
        actions = fixed.get(key[0], {0: math.nan})
        low, high = actions[min(actions)], actions[max(actions)]
        scaled = (own["quality"].to_numpy(float) - low) / (high - low if high > low else math.nan)
        row = {**dict(zip(KEYS, key, strict=True)), HYPERVOLUME: hypervolume(own["cost"], scaled)}
        for cost_coef, mean_return in own[["cost_coef", "return"]].to_numpy(float):
            row[f"{_RETURN_AT}{cost_coef:.2g}"] = float(mean_return)
        rows.append(row)
    return pd.DataFrame(rows)


def tradeoff_metric_infos(columns: list[str]) -> dict[str, MetricInfo]:
    """Names and formats of the metrics of `tradeoff_metrics` that are among some columns."""
    infos = {
        name: MetricInfo(name.removeprefix("return "), name)
        for name in columns
        if name.startswith(_RETURN_AT)
    }
    return infos | ({HYPERVOLUME: MetricInfo(HYPERVOLUME, decimals=3)} if infos else {})
