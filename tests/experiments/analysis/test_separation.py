"""Which agents an environment tells apart, and which environments rank alike."""

import numpy as np
import pytest

from spangym.experiments.analysis.comparison_stats import ComparisonStats, compute_statistics
from tests.experiments.analysis.test_comparison_stats import Returns, make

EASY: Returns = {"a": [9.0, 9.1, 9.2], "b": [8.0, 8.1, 8.2], "c": [7.0, 7.2, 7.1]}
FOR_B: Returns = {"a": [2.0, 2.1, 2.2], "b": [8.0, 8.3, 8.1], "c": [1.0, 1.2, 1.4]}
ALIKE: Returns = {"a": [5.0, 6.0, 4.0], "b": [5.5, 4.5, 5.2], "c": [4.9, 5.9, 4.6]}


def statistics(*environments: Returns) -> ComparisonStats:
    return compute_statistics(make(*environments), np.random.default_rng(0), resamples=20)


def test_an_environment_separates_those_that_others_do_not():
    found = statistics(EASY, FOR_B, ALIKE).separations.set_index("environment")
    assert [*found.index] == ["one", "two"]
    row = found.loc["two"]
    assert (row["group"], row["other"]) == ("b", "a")
    # The returns of the oracle and of random are 10 and 0.
    assert row["difference"] == pytest.approx((8.4 - 6.3) / 3 - 0.1 + 0.003333, abs=0.01)
    assert row["low"] < row["difference"] < row["high"]
    elsewhere = np.mean([-0.1, (15.2 - 15.0) / 30])
    assert row["elsewhere"] == pytest.approx(elsewhere, abs=1e-9)


def test_learners_are_paired_by_seed():
    # The difference is the same for every seed, so that its interval is narrow.
    paired = statistics({"a": [1.0, 5.0, 9.0], "b": [0.5, 4.5, 8.5]}, EASY)
    row = paired.separations.set_index("environment").loc["one"]
    assert (row["group"], row["other"]) == ("a", "b")
    assert row["difference"] == pytest.approx(0.05)
    assert row["high"] - row["low"] == pytest.approx(0, abs=1e-9)
    assert statistics({"a": [1.0, 5.0, 9.0], "b": [8.4, 0.4, 4.4]}, ALIKE).separations.empty


def test_rank_correlations():
    table = statistics(EASY, FOR_B, EASY).rank_correlations
    taus = {(one, other): tau for one, other, tau in table.itertuples(index=False, name=None)}
    assert taus == {
        ("one", "two"): pytest.approx(1 / 3),
        ("one", "three"): pytest.approx(1),
        ("two", "three"): pytest.approx(1 / 3),
    }


def test_one_environment_separates_nothing():
    assert statistics(EASY).separations.empty
    assert statistics(EASY).rank_correlations.empty
