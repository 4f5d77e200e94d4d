"""The area that policies dominate in the plane of cost and quality."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spangym.experiments.analysis.hypervolume import (
    HYPERVOLUME,
    hypervolume,
    tradeoff_metrics,
    tradeoff_points,
)


def test_area_is_that_of_a_fine_grid():
    generator = np.random.default_rng(0)
    grid = (np.arange(400) + 0.5) / 400
    for size in (1, 2, 5):
        costs, qualities = generator.uniform(-0.1, 1.2, (2, size))
        # A cell is dominated if a point costs less and is better.
        dominated = (costs[:, None, None] <= grid[:, None]) & (
            np.minimum(qualities, 1)[:, None, None] >= grid[None, None]
        )
        area = dominated.any(0).mean()
        found = hypervolume(np.clip(costs, 0, None), np.minimum(qualities, 1))
        assert found == pytest.approx(area, abs=0.01)


def test_points_beyond_the_reference_count_nothing():
    assert hypervolume([0.5, 1.5], [-1.0, 2.0]) == 0
    assert hypervolume([0.0], [1.0]) == 1


def test_returns_and_hypervolumes_of_trials():
    def episodes(qualities: list[float], pairs: list[int]) -> pd.DataFrame:
        rows = [
            (cost_coef, quality - cost_coef * number / 100, -cost_coef * number / 100, number)
            for cost_coef, quality, number in zip([0.1, 1.0], qualities, pairs, strict=True)
        ]
        return pd.DataFrame(rows, columns=["cost_coef", "return", "reward_cost", "qk_pairs"])

    agents = {
        "fixed:0": episodes([-2.0, -2.0], [0, 0]),
        "fixed:9": episodes([0.0, 0.0], [100, 100]),
        "ppo": episodes([0.0, -1.0], [60, 20]),
    }
    parts = []
    for name, rows in agents.items():
        points = tradeoff_points(rows, 100)
        assert points is not None
        parts.append(points.assign(environment="a", group=name, seed=0))
    metrics = tradeoff_metrics(pd.concat(parts)).set_index("group")
    assert metrics[HYPERVOLUME].tolist() == pytest.approx([0.0, 0.0, 0.4 * 0.5 + 0.4])
    assert metrics.loc["ppo", "return at cost 0.1"] == pytest.approx(-0.06)
    assert metrics.loc["ppo", "return at cost 1"] == pytest.approx(-1.2)
    without = tradeoff_metrics(parts[-1])
    assert np.isnan(without[HYPERVOLUME].to_numpy(float)).all()
    assert tradeoff_points(agents["ppo"].drop(columns="cost_coef"), 100) is None
