"""Returns of the non-learning baselines, measured and stored."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from spangym.envs import ENVIRONMENTS, SpanControlEnv
from spangym.envs.data.dataset_registry import TASKS
from spangym.experiments.benchmarks.baselines import (
    BaselineReturns,
    measure_baselines,
    read_baselines,
)


def test_baselines_are_what_the_policies_earn(monkeypatch: pytest.MonkeyPatch):
    small = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "cost_coef": 0.3}
    monkeypatch.setattr(gym.registry["spangym/SpanControl-v0"], "kwargs", small)
    done: list[tuple[int, int]] = []
    found = measure_baselines("spangym/SpanControl-v0", 3, lambda *each: done.append(each))
    assert found.chunks == 6
    assert done[-1] == (102, 102)
    env = SpanControlEnv(**small, split="evaluation")
    returns = []
    for env_index in range(3):
        env.reset(seed=1_000_000 + env_index)
        returns.append(sum(env.step(7)[1] for _ in range(4)))
    assert found.fixed[7] == pytest.approx(np.mean(returns) / 2, abs=1e-5)
    # The same returns are averaged in another order.
    assert found.best_fixed <= found.best_by_layer + 1e-9
    assert found.best_by_layer <= found.content_oracle + 1e-9
    assert found.random < found.oracle
    assert found.score <= 1.01
    parts = found.by_content_type
    assert sum(part.chunks for part in parts) == found.chunks
    for name in ("random", "content_oracle", "oracle"):
        mean = sum(getattr(part, name) * part.chunks for part in parts) / found.chunks
        assert mean == pytest.approx(getattr(found, name))
    for part in parts:
        assert max(part.fixed) <= part.content_oracle <= part.oracle + 1e-6
        assert [sum(counts) for counts in part.oracle_actions] == [part.chunks] * 2


def test_beyond_two_layers_good_plans_are_searched(monkeypatch: pytest.MonkeyPatch):
    small = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "cost_coef": 0.3}
    small |= {"num_layers": 3, "num_actions": 3, "action_scale": "absolute"}
    monkeypatch.setattr(gym.registry["spangym/SpanControl-v0"], "kwargs", small)
    done: list[tuple[int, int]] = []
    found = measure_baselines("spangym/SpanControl-v0", 2, lambda *each: done.append(each))
    assert done[-1][0] == done[-1][1] == max(each[0] for each in done)
    env = SpanControlEnv(**small, split="evaluation")
    returns = []
    for plan in itertools.product(range(3), repeat=3):
        returns.append(0.0)
        for seed in (1_000_000, 1_000_001):
            env.reset(seed=seed)
            returns[-1] += sum(env.step(action)[1] for _ in range(2) for action in plan) / 4
    assert found.best_fixed <= found.best_by_layer <= max(returns) + 1e-6
    assert found.best_by_layer == pytest.approx(max(returns), abs=0.05)
    assert found.best_by_layer <= found.content_oracle + 1e-6
    assert found.content_oracle <= found.oracle + 1e-6


def test_baselines_at_several_cost_coefficients(monkeypatch: pytest.MonkeyPatch):
    small: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 16, "chunks_per_episode": 2}
    small |= {"num_actions": 3, "action_scale": "absolute", "reward": "attention"}
    spec = gym.registry["spangym/SpanControl-v0"]
    monkeypatch.setattr(spec, "kwargs", {**small, "cost_coef": (0.01, 1.0)})
    found = measure_baselines("spangym/SpanControl-v0", 3, lambda *_: None)
    assert found.chunks == 5 * 6
    costs = [each.cost_coef for each in found.by_cost_coef]
    assert costs == pytest.approx([0.01, 0.0316, 0.1, 0.316, 1], rel=1e-2)
    for index in (0, 3):
        monkeypatch.setattr(spec, "kwargs", {**small, "cost_coef": costs[index]})
        alone = measure_baselines("spangym/SpanControl-v0", 3, lambda *_: None)
        part = found.by_cost_coef[index]
        assert part.fixed == pytest.approx(alone.fixed, abs=1e-5)
        assert part.random == pytest.approx(alone.random, abs=1e-5)
        assert part.oracle == pytest.approx(alone.oracle, abs=1e-5)
        assert part.best_fixed == alone.fixed.index(alone.best_fixed)
    for name in ("random", "fixed", "oracle"):
        mean = np.mean([getattr(each, name) for each in found.by_cost_coef], 0)
        assert getattr(found, name) == pytest.approx(mean)
    assert found.best_fixed <= found.best_by_layer <= found.content_oracle <= found.oracle


def test_a_row_of_baselines_as_text():
    fixed = (0.0, 0.5, *[0.1] * 8)
    row = BaselineReturns("spangym/A-v0", 9, -1.0, fixed, 0.6, 0.7, 1.0, (1, 2), ())
    assert row.to_row()[:3] == ("A-v0", "-1.000", "0.000")
    assert row.to_row()[-2:] == ("1", "0.75")


STORED = Path(__file__).parents[3] / "experiments" / "results" / "baselines.json"


def test_in_the_stored_baselines_no_fixed_span_is_near_the_oracle():
    rows = read_baselines(STORED)
    measured = [name for name, arguments in ENVIRONMENTS.items() if "model" not in arguments]
    assert {*measured} <= {row.id for row in rows} <= {*ENVIRONMENTS}
    for row in rows[1:]:
        assert row.oracle - row.best_fixed > 0.05 * abs(row.oracle)
        assert row.score < 0.95
        assert row.content_oracle > row.best_fixed


def test_no_fixed_span_of_a_scenario_has_half_of_the_oracles_score():
    rows = [row for row in read_baselines(STORED) if ENVIRONMENTS[row.id].get("dataset") in TASKS]
    assert len(rows) == len(TASKS)
    for row in rows:
        assert row.score < 0.5
        # The content type is worth knowing, and nearly all that is worth knowing.
        share = (row.best_by_layer - row.random) / (row.oracle - row.random)
        assert share < 0.85
        assert (row.content_oracle - row.random) / (row.oracle - row.random) > 0.95


def test_the_stored_oracle_is_that_of_the_shipped_layers():
    """One id played again, with fewer episodes: the first of those stored."""
    (row,) = (row for row in read_baselines(STORED) if row.id.endswith("Sparsity-v0"))
    env = SpanControlEnv(**ENVIRONMENTS[row.id], split="evaluation")
    returns = []
    for seed in range(3):
        env.reset(seed=1_000_000 + seed)
        for _ in range(env.config.chunks_per_episode):
            returns.append(env.lookahead().max())
            env.step(9)
            env.step(9)
    assert np.mean(returns) == pytest.approx(row.oracle, abs=0.1)
