import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spangym.experiments.analysis import aggregates
from spangym.experiments.analysis.comparison_stats import (
    BEST_FIXED,
    THRESHOLDS,
    ComparisonStats,
    MeanCI,
    compute_statistics,
)
from spangym.experiments.analysis.intervals import t_interval
from spangym.experiments.analysis.load_results import learning_speed, to_long
from spangym.experiments.analysis.results import COMPARISON_METRICS, CURVE_COLUMNS, Results
from spangym.experiments.analysis.sample_efficiency import area_under_curve, sample_efficiency

# Returns, by agent and training seed.
Returns = Mapping[str, Sequence[float]]

BASELINES: Returns = {
    "oracle": [10.0],
    "random": [0.0, 0.2, -0.2],
    "fixed:0": [1.0],
    "fixed:8": [5.0],
}
EPISODES = (-1.0, 0.5, 0.5)
"""What the streams of the evaluation add to a return."""


def make(
    *environments: Returns,
    baselines: Sequence[str] = tuple(BASELINES),
    names: Sequence[str] = ("one", "two", "three"),
    curves: pd.DataFrame | None = None,
) -> Results:
    """Rows of returns in one environment or several; the baselines are added to each."""
    trials, episodes, learners = [], [], {}
    for environment, returns in zip(names, environments, strict=False):
        learners |= dict.fromkeys(agent for agent in returns if agent not in BASELINES)
        everyone = {label: BASELINES[label] for label in baselines} | dict(returns)
        scored = {"oracle", "random"} <= everyone.keys()
        for agent, seeds in everyone.items():
            for seed, value in enumerate(seeds):
                key = {"environment": environment, "group": agent, "seed": seed}
                trials.append(
                    {
                        **key,
                        "return": value,
                        "score": value / 10 if scored else np.nan,
                        "regret": np.nan if seed else 0.5,
                        "mean_span": 10.0 * seed,
                        "qk_pairs": 100.0,
                        "full_qk_pairs": 400.0,
                        "seconds": 2.0,
                        "steps": 0 if agent in BASELINES else 100,
                    }
                )
                episodes += [
                    {**key, "evaluation_seed": 1_000 + number, "return": value + more}
                    for number, more in enumerate(EPISODES)
                ]
    wide = pd.DataFrame(trials)
    if curves is not None:
        wide = wide.merge(
            learning_speed(curves, wide), on=["environment", "group", "seed"], how="left"
        )
    return Results(
        study_type="comparison",
        environments=tuple(names[: len(environments)]),
        groups=(*learners, *baselines),
        baselines=tuple(baselines),
        splits=("evaluation",),
        metrics=COMPARISON_METRICS,
        primary="return",
        values=to_long(wide),
        curves=pd.DataFrame(columns=[*CURVE_COLUMNS]),
        episodes=pd.DataFrame(episodes),
    )


def analyzed(results: Results, resamples: int = 200) -> ComparisonStats:
    return compute_statistics(results, np.random.default_rng(0), resamples)


def estimate(results: Results, group: str, metric: str = "return") -> MeanCI:
    return analyzed(results).estimate("one", group, metric, "evaluation")


def differences(results: Results, agent: str) -> pd.DataFrame:
    table = analyzed(results).differences
    return table[table["group"] == agent].set_index("baseline")


def numbers(table: Any) -> NDArray[np.float64]:
    return np.asarray(table, dtype=float)


class TestSummaries:
    def test_means_and_intervals_over_seeds(self):
        results = make({"dqn": [3.0, 4.0, 8.0]})
        bounds = t_interval(np.array([3.0, 4.0, 8.0]))
        assert estimate(results, "dqn") == pytest.approx((5.0, *bounds, 3))
        score = estimate(results, "dqn", "score")
        assert score == pytest.approx((0.5, *np.array(bounds) / 10, 3))
        metrics = ("mean_span", "qk_pairs", "full_qk_pairs", "seconds", "steps")
        means = [estimate(results, "dqn", each).mean for each in metrics]
        assert means == pytest.approx([10, 100, 400, 2, 100])
        # Regret is measured for the first seed only.
        assert estimate(results, "dqn", "regret")[::3] == (0.5, 1)

    def test_a_policy_that_is_run_once_has_no_interval(self):
        results = make({"dqn": [3.0, 4.0]})
        for group in (*BASELINES, "dqn"):
            once = group not in ("dqn", "random")
            for metric in ("return", "score"):
                bounds = estimate(results, group, metric)[1:3]
                assert np.isnan(bounds).tolist() == [once, once]

    def test_environments_keep_their_order(self):
        results = make({"dqn": [3.0]}, {"dqn": [3.0]}, names=("z", "a"))
        table = analyzed(results).summary
        assert [*table["environment"].unique()] == ["z", "a"]
        assert [*table["group"].unique()] == [*results.groups]

    def test_how_soon_trainings_got_anywhere(self):
        steps = np.arange(1, 101)
        seeds = [
            pd.DataFrame(
                {
                    "environment": "one",
                    "group": "dqn",
                    "seed": seed,
                    "step": steps,
                    "return": np.where(steps > jump, 4.0, 0.0) if jump else -1.0,
                }
            )
            # The last of them ends below random.
            for seed, jump in enumerate((20, 60, 0))
        ]
        curves = pd.concat(seeds).sample(frac=1, random_state=0)
        results = make({"dqn": [4.0] * 3}, curves=curves)
        # Of 100 episodes 80 and 40 return 4.
        assert estimate(results, "dqn", "area").mean == pytest.approx((3.2 + 1.6 - 1) / 3)
        assert estimate(results, "dqn", "efficiency").mean == 70, "median of 30, 70 and never"
        assert np.isnan(estimate(results, "oracle", "efficiency").mean)
        results = make({"dqn": [4.0] * 2}, curves=pd.concat([seeds[1], seeds[2].assign(seed=0)]))
        assert np.isnan(estimate(results, "dqn", "efficiency").mean)


class TestLearningSpeed:
    def test_envs_that_end_together_are_a_step(self):
        steps, returns = np.array([10.0, 10, 40, 40]), np.array([0.0, 2, 4, 6])
        assert area_under_curve(steps, returns) == pytest.approx((10 * 1 + 30 * 5) / 40)

    def test_a_lucky_start_is_not_a_level(self):
        steps = np.arange(1.0, 101)
        returns = np.where(steps > 50, 1.0, 0.0)
        returns[0] = 5
        assert sample_efficiency(steps, returns, start=0) == 60

    def test_what_comes_between_ends_does_not_matter(self):
        # Episodes that are longer than the window: each is a level by itself.
        steps, returns = np.array([30.0, 60, 90]), np.array([0.0, 1, 1])
        assert sample_efficiency(steps, returns, start=0) == 60

    def test_a_training_that_ends_below_its_start_never_gets_there(self):
        steps, returns = np.array([30.0, 60, 90]), np.array([0.0, 1, -1])
        assert np.isnan(sample_efficiency(steps, returns, start=0))


class TestDifferences:
    def test_seeds_are_the_unit_of_replication(self):
        values = [4.0, 6.0, 8.0]
        row = differences(make({"dqn": values}), "dqn").loc["fixed:0"]
        assert row["difference"] == pytest.approx(5)
        assert row["n"] == 3
        # Streams that are harder for both do not widen the interval, however many were played.
        assert (row["low"], row["high"]) == pytest.approx(t_interval(np.array(values) - 1))

    def test_random_is_paired_by_training_seed(self):
        row = differences(make({"dqn": [1.0, 1.2, 0.8]}), "dqn").loc["random"]
        assert (row["low"], row["high"]) == pytest.approx((1.0, 1.0))

    def test_only_common_seeds_and_episodes_are_compared(self):
        results = make({"dqn": [4.0, 6.0, 8.0, 9.0]})
        table = results.episodes
        of_dqn, of_span = table["group"] == "dqn", table["group"] == "fixed:0"
        # The hard stream was not played by the fixed span: it is left out for the learner, too.
        hard, second = table["evaluation_seed"] == 1_000, table["seed"] == 1
        kept = table[~(of_span & hard) & ~(of_dqn & second)]
        found = differences(replace(results, episodes=kept), "dqn")
        assert found.loc["fixed:0", "difference"] == pytest.approx((3 + 7 + 8) / 3)
        assert found.loc["fixed:0", "n"] == 3
        assert found.loc["random", "n"] == 2

    @pytest.mark.parametrize(
        ("values", "outcome"),
        [
            ([7.0, 7.1, 7.2], "better"),
            ([3.0, 3.1, 3.2], "worse"),
            ([3.0, 5.0, 7.5], "inconclusive"),
            ([7.0], "inconclusive"),
            ([5.0, 5.0 + 1e-6, 5.0 - 1e-6], "equal"),
            ([5.0, 5.0, 5.0001], "inconclusive"),
            ([5.0], "equal"),
        ],
    )
    def test_outcomes(self, values: list[float], outcome: str):
        row = differences(make({"dqn": values}), "dqn").loc["fixed:8"]
        assert row["outcome"] == outcome
        assert np.isnan(row["low"]) == (len(values) == 1)

    def test_of_each_environment_learner_and_reference(self):
        results = make({"dqn": [1.0, 2.0], "ppo": [1.0, 2.0]}, {"ppo": [1.0, 2.0]})
        table = analyzed(results).differences
        expected = itertools.product(["one"], ["dqn", "ppo"], BASELINES)
        expected = [*expected, *itertools.product(["two"], ["ppo"], BASELINES)]
        keys = table[["environment", "group", "baseline"]]
        assert [*keys.itertuples(index=False, name=None)] == expected


class TestOverEnvironments:
    results = make(
        {"dqn": [4.0, 5.0, 6.0], "ppo": [7.0, 8.0]},
        {"dqn": [6.0, 7.0, 9.0], "ppo": [5.0, 6.0, 5.5], "fixed:8": [0.5]},
    )

    def test_aggregates(self):
        table = analyzed(self.results).aggregates
        assert [*table["group"].unique()] == ["dqn", "ppo", *BASELINES]
        assert [*table["statistic"][:4]] == ["iqm", "median", "mean", "optimality gap"]
        dqn = table[table["group"] == "dqn"].set_index("statistic")
        assert dqn.loc["mean", "estimate"] == pytest.approx((0.5 + 22 / 30) / 2)
        assert (np.diff(numbers(dqn[["low", "estimate", "high"]])) > 0).all()
        once = table[table["group"].isin(["oracle", "fixed:0", "fixed:8"])]
        assert np.isnan(numbers(once[["low", "high"]])).all()
        assert np.isfinite(numbers(once[["estimate"]])).all()

    def test_improvement(self):
        table = analyzed(self.results).probability_of_improvement
        pairs = [("dqn", "ppo"), ("dqn", BEST_FIXED), ("ppo", BEST_FIXED)]
        assert [*table[["group", "other"]].itertuples(index=False, name=None)] == pairs
        # The best are fixed:8 in the first environment, which one seed of dqn equals, and fixed:0
        # in the second.
        expected = [(0 + 8.5 / 9) / 2, (0.5 + 1) / 2, 1]
        assert numbers(table["probability"]) == pytest.approx(np.array(expected))
        bounds = numbers(table[["low", "probability", "high"]])
        assert (np.diff(bounds[:2]) > 0).all()
        assert np.isnan(bounds[2, [0, 2]]).all(), "that all runs are ahead is not to be certain"
        assert np.nanmin(bounds) >= 0
        assert np.nanmax(bounds) <= 1

    def test_profiles(self):
        table = analyzed(self.results).profiles
        assert [*table["group"].unique()] == ["dqn", "ppo", BEST_FIXED]
        dqn = table[table["group"] == "dqn"]
        assert [*dqn["threshold"]] == [*THRESHOLDS]
        expected = aggregates.performance_profile(
            [np.array([0.4, 0.5, 0.6]), np.array([0.6, 0.7, 0.9])], THRESHOLDS
        )
        assert [*dqn["share"]] == [*expected]
        known = numbers(dqn[["low", "share", "high"]])
        known = known[np.isfinite(known).all(1)]
        assert len(known) > 30
        assert known.min() >= 0
        assert known.max() <= 1
        assert (known[:, 0] < known[:, 1]).all()
        best = numbers(table.loc[table["group"] == BEST_FIXED, "share"])
        # fixed:8 at 0.5, and where that fails fixed:0 at 0.1.
        assert best[[5, 30, 60]].tolist() == [1, 0.5, 0]

    def test_an_agent_that_lacks_an_environment_is_left_out(self):
        results = make({"dqn": [4.0, 5.0], "ppo": [7.0, 8.0]}, {"dqn": [6.0, 7.0]})
        statistics = analyzed(results)
        assert "ppo" not in {*statistics.aggregates["group"], *statistics.profiles["group"]}
        assert [*statistics.probability_of_improvement["other"]] == [BEST_FIXED]

    def test_there_are_no_scores_without_an_oracle(self):
        results = make({"dqn": [4.0, 5.0]}, baselines=["random", "fixed:0", "fixed:8"])
        statistics = analyzed(results)
        assert statistics.aggregates.empty
        assert statistics.profiles.empty
        assert np.isnan(statistics.estimate("one", "dqn", "score", "evaluation").mean)
        assert len(statistics.probability_of_improvement) == 1, "for that, returns will do"

    def test_a_single_environment_will_do(self):
        table = analyzed(make({"dqn": [4.0, 5.0, 6.0]})).aggregates
        mean = table.set_index(["group", "statistic"]).loc[("dqn", "mean")]
        assert mean["estimate"] == pytest.approx(0.5)
        assert mean["low"] < 0.5 < mean["high"]

    def test_the_same_state_says_the_same(self):
        first, again = analyzed(self.results), analyzed(self.results)
        for name in ("aggregates", "probability_of_improvement", "profiles"):
            pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))


def test_nothing_has_finished():
    results = make({"dqn": []})
    empty = replace(results, values=results.values[:0], episodes=results.episodes[:0])
    statistics = analyzed(empty)
    assert statistics.summary.empty
    assert not statistics.best_fixed
    assert statistics.differences.empty
