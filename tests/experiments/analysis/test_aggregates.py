import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from spangym.experiments.analysis import aggregates
from spangym.experiments.analysis.intervals import (
    Floats,
    Strata,
    bootstrap_ci,
    bootstrap_ci_proportion,
    t_interval,
)

STATISTICS: dict[str, Callable[[Strata], Floats]] = {
    "iqm": aggregates.interquartile_mean,
    "median": aggregates.median,
    "mean": aggregates.mean,
    "optimality gap": aggregates.optimality_gap,
}
RECORDED = json.loads((Path(__file__).parent / "golden_rliable.json").read_text())


def by_environment(scores: list[list[float]]) -> Strata:
    """From runs by tasks."""
    return [*np.array(scores).T]


@pytest.mark.parametrize("case", RECORDED["cases"])
class TestRliable:
    """What rliable says of the same scores, recorded."""

    def test_aggregates(self, case: dict[str, Any]):
        for agent, scores in case["scores"].items():
            for name, statistic in STATISTICS.items():
                expected = case["statistics"][agent][name]
                assert statistic(by_environment(scores)) == pytest.approx(expected, abs=1e-12)

    def test_profiles(self, case: dict[str, Any]):
        for agent, scores in case["scores"].items():
            shares = aggregates.performance_profile(by_environment(scores), RECORDED["thresholds"])
            assert shares == pytest.approx(case["statistics"][agent]["profile"], abs=1e-12)

    def test_probability_of_improvement(self, case: dict[str, Any]):
        for pair in case["improvement"]:
            first, second = (
                by_environment(case["scores"][pair[one]]) for one in ("agent", "other")
            )
            probability = aggregates.probability_of_improvement(first, second)
            assert probability == pytest.approx(pair["probability"], abs=1e-12)


def scores_of(*counts: int, seed: int = 0) -> Strata:
    generator = np.random.default_rng(seed)
    return [generator.normal(level, 0.3, size=count) for level, count in enumerate(counts)]


def test_every_environment_counts_the_same():
    # However often a trial was repeated, as long as the repetitions say the same.
    few, many = np.array([0.1, 0.2]), np.array([0.5, 0.9])
    once = [few, many, few + 1, many + 1]
    unevenly = [few.repeat(2), many, few + 1, (many + 1).repeat(2)]
    for statistic in STATISTICS.values():
        assert statistic(unevenly) == pytest.approx(float(statistic(once)))


def test_probability_of_improvement_is_mann_and_whitneys():
    generator = np.random.default_rng(0)
    first = [generator.integers(5, size=count).astype(float) for count in (4, 7)]
    second = [generator.integers(5, size=count).astype(float) for count in (6, 7)]
    expected = [
        stats.mannwhitneyu(one, other).statistic / (len(one) * len(other))
        for one, other in zip(first, second, strict=True)
    ]
    assert len(set(np.concatenate(first))) < 11, "there are to be ties"
    probability = aggregates.probability_of_improvement(first, second)
    assert probability == pytest.approx(np.mean(expected), abs=1e-12)


def test_runs_that_differ_by_rounding_are_tied():
    same = [np.array([-3.0])]
    assert aggregates.probability_of_improvement([np.array([-3.0 + 1e-7])], same) == 0.5
    assert aggregates.probability_of_improvement([np.array([-3.0 + 1e-4])], same) == 1.0


Scores = npst.arrays(float, st.tuples(st.integers(1, 6)), elements=st.floats(-2, 2))
ManyScores = st.lists(Scores, min_size=1, max_size=4)


@given(ManyScores)
def test_statistics_lie_within_the_scores(strata: list[Floats]):
    low, high = np.concatenate(strata).min(), np.concatenate(strata).max()
    for name in ("iqm", "median", "mean"):
        assert low - 1e-9 <= STATISTICS[name](strata) <= high + 1e-9


@given(ManyScores)
def test_statistics_know_no_order(strata: list[Floats]):
    turned = [each[::-1] for each in reversed(strata)]
    for statistic in STATISTICS.values():
        assert statistic(turned) == pytest.approx(float(statistic(strata)), abs=1e-9)


@given(ManyScores, st.floats(0, 1))
def test_better_runs_are_never_worse(strata: list[Floats], more: float):
    raised = [strata[0] + more, *strata[1:]]
    for name in ("iqm", "median", "mean"):
        assert STATISTICS[name](raised) >= STATISTICS[name](strata) - 1e-9
    assert aggregates.optimality_gap(raised) <= aggregates.optimality_gap(strata) + 1e-9
    profiles = (aggregates.performance_profile(each, [0.0, 0.5]) for each in (strata, raised))
    assert np.less_equal(*profiles).all()


@given(ManyScores)
def test_probabilities_of_two_agents_add_up(strata: list[Floats]):
    others = [each[:1] + 0.1 for each in strata]
    there = aggregates.probability_of_improvement(strata, others)
    back = aggregates.probability_of_improvement(others, strata)
    assert 0 <= there <= 1
    assert there + back == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", STATISTICS)
def test_leading_axes_are_carried_along(name: str):
    strata = [np.random.default_rng(count).normal(size=(4, 2, count)) for count in (3, 5)]
    whole = STATISTICS[name](strata)
    assert whole.shape == (4, 2)
    assert whole[3, 1] == pytest.approx(float(STATISTICS[name]([each[3, 1] for each in strata])))


class TestStudent:
    def test_is_scipys(self):
        values = np.random.default_rng(0).normal(size=(3, 5))
        low, high = t_interval(values)
        expected = stats.ttest_1samp(values, 0, axis=-1).confidence_interval(0.95)
        assert low == pytest.approx(expected.low)
        assert high == pytest.approx(expected.high)

    def test_a_single_seed_says_nothing(self):
        assert np.isnan(t_interval(np.ones(1))).all()


class TestBootstrap:
    def test_of_one_environments_mean_is_students(self):
        strata = scores_of(6)
        interval = bootstrap_ci(
            aggregates.mean, strata, np.random.default_rng(0), resamples=200_000
        )
        low, high = t_interval(strata[0])
        assert interval == pytest.approx((low, high), abs=0.005 * float(high - low))

    def test_spread_is_that_of_scipys_bootstrap(self):
        strata = scores_of(8, 8, 8)

        def statistic(*strata: Floats, axis: int = -1) -> Floats:
            del axis
            return aggregates.interquartile_mean([*np.broadcast_arrays(*strata)])

        scipys = stats.bootstrap(
            strata,
            statistic,
            n_resamples=20_000,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(1),
        )
        seen = []

        def spied(strata: Strata) -> Floats:
            seen.append(aggregates.interquartile_mean(strata))
            return seen[-1]

        bootstrap_ci(spied, strata, np.random.default_rng(0), resamples=20_000)
        resampled = next(each for each in seen if each.shape == (20_000,))
        assert resampled.std() == pytest.approx(scipys.standard_error, rel=0.02)
        percentiles = np.percentile(resampled, [2.5, 97.5])
        expected = scipys.confidence_interval
        assert percentiles == pytest.approx(expected, abs=0.05 * (expected.high - expected.low))

    def test_seeds_stay_in_their_environment(self):
        # Whatever is drawn, there are three of each.
        strata = [np.full(3, 0.0), np.full(3, 1.0)]
        for name in ("mean", "median", "iqm"):
            interval = bootstrap_ci(STATISTICS[name], strata, np.random.default_rng(0))
            assert interval == pytest.approx((0.5, 0.5))

    def test_the_same_state_draws_the_same(self):
        first, again, other = (
            bootstrap_ci(aggregates.median, scores_of(4, 4), np.random.default_rng(seed))
            for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other

    def test_an_environment_with_a_single_seed_leaves_no_interval(self):
        low, high = bootstrap_ci(aggregates.mean, scores_of(5, 1), np.random.default_rng(0))
        assert np.isnan([low, high]).all()

    def test_a_share_stays_a_share(self):
        above = [np.array([True, True, True, False]), np.array([True, True, True, True])]
        _, high = bootstrap_ci(aggregates.mean, above, np.random.default_rng(0))
        assert high > 1
        low, high = bootstrap_ci_proportion(aggregates.mean, above, np.random.default_rng(0))
        assert 0 < low < 0.875
        assert high == 1

    def test_a_share_of_all_is_not_certain(self):
        above = [np.full(4, True)] * 2
        bounds = bootstrap_ci_proportion(aggregates.mean, above, np.random.default_rng(0))
        assert np.isnan(bounds).all()


RESAMPLES = 500
"""Enough for an average over many intervals."""


def covered(low: Floats, high: Floats, truth: float) -> float:
    """How many intervals of a hundred hold the truth."""
    return 100 * float(np.mean((low <= truth) & (truth <= high)))


class TestCoverage:
    """On made-up scores, whose truth is known, 95 of 100 intervals hold it."""

    @pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20])
    def test_of_paired_differences(self, seeds: int):
        generator = np.random.default_rng(seeds)
        # Streams are harder or easier for both.
        streams = generator.normal(0, 5, size=(20_000, seeds))
        learner = streams + generator.normal(1.3, 1, size=streams.shape)
        reference = streams + generator.normal(1, 0.5, size=streams.shape)
        assert 94 < covered(*t_interval(learner - reference), truth=0.3) < 96

    @pytest.mark.parametrize(
        ("name", "kind", "counts"),
        [
            ("iqm", "normal", (5, 5, 5)),
            ("iqm", "unlike", (5,) * 7),
            ("iqm", "skewed", (5, 3, 4, 5, 5)),
            ("iqm", "skewed", (3,) * 7),
            ("mean", "unlike", (5, 5, 5)),
            ("mean", "skewed", (3,) * 7),
            ("median", "normal", (10, 10, 10)),
            ("optimality gap", "skewed", (5, 3, 4, 5, 5)),
        ],
    )
    def test_over_environments(self, name: str, kind: str, counts: tuple[int, ...]):
        environments = environments_of(kind, len(counts))
        middles = (np.arange(20_000) + 0.5) / 20_000
        truth = STATISTICS[name]([each.ppf(middles) for each in environments])
        generator = np.random.default_rng(0)
        holds = []
        for _ in range(12):
            strata = [
                each.rvs((50, count), random_state=generator)
                for each, count in zip(environments, counts, strict=True)
            ]
            bounds = bootstrap_ci(STATISTICS[name], strata, generator, RESAMPLES)
            holds.append(covered(*bounds, truth=float(truth)))
        assert 93 <= np.mean(holds) <= 97

    def test_of_the_probability_of_improvement(self):
        generator = np.random.default_rng(0)
        ahead = np.array([0.2, 0.5, 0.8])
        # Of the difference of two runs, whose standard deviation is the root of 2.
        truth = stats.norm.cdf(ahead / np.sqrt(2)).mean()
        holds = []
        for _ in range(25):
            first = [generator.normal(each, 1, size=(25, 5)) for each in ahead]
            second = [generator.normal(0, 1, size=(25, 5)) for _ in ahead]
            bounds = bootstrap_ci_proportion(
                lambda strata: aggregates.probability_of_improvement(strata[:3], strata[3:]),
                [*first, *second],
                generator,
                RESAMPLES,
            )
            holds.append(covered(*bounds, truth=truth))
        assert 93 <= np.mean(holds) <= 97

    def test_of_a_performance_profile(self):
        environments = environments_of("normal", 7)
        truth = np.mean([each.sf(0.5) for each in environments])
        generator = np.random.default_rng(0)
        above = [each.rvs((1000, 5), random_state=generator) > 0.5 for each in environments]
        bounds = bootstrap_ci_proportion(aggregates.mean, above, generator, RESAMPLES)
        assert 93 <= covered(*bounds, truth=float(truth)) <= 97


def environments_of(kind: str, count: int) -> list[Any]:
    """Distributions of scores, each environment harder than the one before."""
    levels = 0.2 + 0.7 * np.arange(count) / count
    kinds = {
        "normal": lambda place: stats.norm(levels[place], 0.1),
        "unlike": lambda place: stats.norm(levels[place], (0.02, 0.1, 0.3)[place % 3]),
        "skewed": lambda place: stats.beta(2, (5, 2, 1)[place % 3]),
    }
    return [kinds[kind](place) for place in range(count)]
