import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from spangym.experiments import aggregates
from spangym.experiments.analysis import BEST_FIXED, THRESHOLDS, Statistics, analyse
from spangym.experiments.intervals import student_interval
from spangym.experiments.rows import Rows

# Returns, by agent and training seed.
Returns = Mapping[str, Sequence[float]]

REFERENCES: Returns = {
    "oracle": [10.0],
    "random": [0.0, 0.2, -0.2],
    "fixed:0": [1.0],
    "fixed:8": [5.0],
}
EPISODES = (-1.0, 0.5, 0.5)
"""What the streams of the evaluation add to a return."""


def make(
    *environments: Returns,
    references: Sequence[str] = tuple(REFERENCES),
    names: Sequence[str] = ("one", "two", "three", "four", "five", "six"),
) -> Rows:
    """Rows of returns in one environment or several; the references are added to each."""
    trials, episodes, learners = [], [], {}
    for environment, returns in zip(names, environments, strict=False):
        learners |= dict.fromkeys(agent for agent in returns if agent not in REFERENCES)
        everyone = {label: REFERENCES[label] for label in references} | dict(returns)
        scored = {"oracle", "random"} <= everyone.keys()
        for agent, seeds in everyone.items():
            for seed, value in enumerate(seeds):
                key = {"environment": environment, "agent": agent, "training_seed": seed}
                trials.append(
                    {
                        **key,
                        "return": value,
                        "score": value / 10 if scored else np.nan,
                        "regret": np.nan if seed else 0.5,
                        "mean_span": 10.0 * seed,
                        "visited_keys": 100.0,
                        "full_keys": 400.0,
                        "seconds": 2.0,
                        "steps": 0 if agent in REFERENCES else 100,
                    }
                )
                episodes += [
                    {**key, "evaluation_seed": 1_000 + number, "return": value + more}
                    for number, more in enumerate(EPISODES)
                ]
    curve = ["environment", "agent", "training_seed", "step", "return"]
    return Rows(
        environments=tuple(names[: len(environments)]),
        learners=tuple(learners),
        references=tuple(references),
        trials=pd.DataFrame(trials),
        episodes=pd.DataFrame(episodes),
        curves=pd.DataFrame(columns=curve),
        choices=pd.DataFrame(),
    )


def analysed(rows: Rows, resamples: int = 200) -> Statistics:
    return analyse(rows, np.random.default_rng(0), resamples)


def differences(rows: Rows, agent: str) -> pd.DataFrame:
    table = analysed(rows).differences
    return table[table["agent"] == agent].set_index("reference")


class TestSummaries:
    def test_means_and_intervals_over_seeds(self):
        table = analysed(make({"dqn": [3.0, 4.0, 8.0]})).summaries
        assert [*table["agent"]] == ["oracle", "dqn", "fixed:8", "fixed:0", "random"]
        dqn = table.loc[1]
        bounds = student_interval(np.array([3.0, 4.0, 8.0]))
        assert dqn["return"] == 5.0
        assert (dqn["low"], dqn["high"]) == pytest.approx(bounds)
        assert (dqn["score_low"], dqn["score_high"]) == pytest.approx(np.array(bounds) / 10)
        means = dqn[["score", "regret", "mean_span", "visited_keys", "full_keys", "seconds"]]
        assert [*means] == pytest.approx([0.5, 0.5, 10, 100, 400, 2])
        assert (dqn["steps"], dqn["seeds"]) == (100, 3)

    def test_a_policy_that_is_run_once_has_no_interval(self):
        table = analysed(make({"dqn": [3.0, 4.0]})).summaries.set_index("agent")
        assert table.loc[["oracle", "fixed:8"], ["low", "high", "score_low"]].isna().all(axis=None)
        assert table.loc[["dqn", "random"], ["low", "high", "score_low"]].notna().all(axis=None)

    def test_environments_keep_their_order(self):
        rows = make({"dqn": [3.0]}, {"dqn": [3.0]}, names=("z", "a"))
        assert [*analysed(rows).summaries["environment"].unique()] == ["z", "a"]

    def test_how_soon_trainings_got_anywhere(self):
        steps = np.arange(1, 101)
        seeds = [
            pd.DataFrame(
                {
                    "environment": "one",
                    "agent": "dqn",
                    "training_seed": seed,
                    "step": steps,
                    "return": np.where(steps > jump, 4.0, 0.0) if jump else -1.0,
                }
            )
            # The last of them ends below random.
            for seed, jump in enumerate((20, 60, 0))
        ]
        rows = make({"dqn": [4.0] * 3})
        curves = pd.concat(seeds).sample(frac=1, random_state=0)
        dqn = analysed(with_curves(rows, curves)).summaries.set_index("agent").loc["dqn"]
        # Of 100 episodes 80 and 40 return 4.
        assert dqn["area"] == pytest.approx((3.2 + 1.6 - 1) / 3)
        assert dqn["efficiency"] == 70, "of 30, 70 and never the middle one"
        dqn = analysed(with_curves(rows, pd.concat(seeds[1:]))).summaries.set_index("agent")
        assert np.isnan(dqn.loc["dqn", "efficiency"])

    def test_nothing_is_trained(self):
        table = analysed(make({"dqn": [4.0] * 3})).summaries
        assert table[["area", "efficiency"]].isna().all(axis=None)


def with_curves(rows: Rows, curves: pd.DataFrame) -> Rows:
    return Rows(
        rows.environments,
        rows.learners,
        rows.references,
        rows.trials,
        rows.episodes,
        curves,
        rows.choices,
    )


class TestDifferences:
    def test_seeds_are_the_unit_of_replication(self):
        values = np.array([4.0, 6.0, 8.0])
        row = differences(make({"dqn": values}), "dqn").loc["fixed:0"]
        assert row["difference"] == pytest.approx(5)
        assert row["seeds"] == 3
        # Streams that are harder for both do not widen the interval, however many were played.
        assert (row["low"], row["high"]) == pytest.approx(student_interval(values - 1))

    def test_random_is_paired_by_training_seed(self):
        row = differences(make({"dqn": [1.0, 1.2, 0.8]}), "dqn").loc["random"]
        assert (row["low"], row["high"]) == pytest.approx((1.0, 1.0))

    def test_only_common_seeds_and_episodes_are_compared(self):
        rows = make({"dqn": [4.0, 6.0, 8.0, 9.0]})
        table = rows.episodes
        of_dqn, of_span = table["agent"] == "dqn", table["agent"] == "fixed:0"
        # The hard stream was not played by the fixed span: it is left out for the learner, too.
        kept = table[~(of_span & (table["evaluation_seed"] == 1_000))]
        kept = kept[~(of_dqn & (kept["training_seed"] == 1))]
        found = differences(with_episodes(rows, kept), "dqn")
        assert found.loc["fixed:0", "difference"] == pytest.approx((3 + 7 + 8) / 3)
        assert found.loc["fixed:0", "seeds"] == 3
        assert found.loc["random", "seeds"] == 2

    @pytest.mark.parametrize(
        ("values", "verdict"),
        [
            ([7.0, 7.1, 7.2], "better"),
            ([3.0, 3.1, 3.2], "worse"),
            ([3.0, 5.0, 7.5], "open"),
            ([7.0], "open"),
            ([5.0, 5.0 + 1e-6, 5.0 - 1e-6], "equal"),
            ([5.0, 5.0, 5.0001], "open"),
            ([5.0], "equal"),
        ],
    )
    def test_verdicts(self, values: list[float], verdict: str):
        row = differences(make({"dqn": values}), "dqn").loc["fixed:8"]
        assert row["verdict"] == verdict
        assert np.isnan(row["low"]) == (len(values) == 1)

    def test_of_each_environment_learner_and_reference(self):
        rows = make({"dqn": [1.0, 2.0], "ppo": [1.0, 2.0]}, {"ppo": [1.0, 2.0]})
        table = analysed(rows).differences
        expected = itertools.product(["one"], ["dqn", "ppo"], REFERENCES)
        expected = [*expected, *itertools.product(["two"], ["ppo"], REFERENCES)]
        assert [*zip(table["environment"], table["agent"], table["reference"])] == expected


def with_episodes(rows: Rows, episodes: pd.DataFrame) -> Rows:
    return Rows(
        rows.environments,
        rows.learners,
        rows.references,
        rows.trials,
        episodes,
        rows.curves,
        rows.choices,
    )


class TestOverEnvironments:
    rows = make(
        {"dqn": [4.0, 5.0, 6.0], "ppo": [7.0, 8.0]},
        {"dqn": [6.0, 7.0, 9.0], "ppo": [5.0, 6.0, 5.5], "fixed:8": [0.5]},
    )

    def test_aggregates(self):
        table = analysed(self.rows).aggregates
        assert [*table["agent"].unique()] == ["dqn", "ppo", *REFERENCES]
        assert [*table["statistic"][:4]] == ["iqm", "median", "mean", "optimality gap"]
        dqn = table[table["agent"] == "dqn"].set_index("statistic")
        assert dqn.loc["mean", "estimate"] == pytest.approx((0.5 + 22 / 30) / 2)
        assert (dqn["low"] < dqn["estimate"]).all()
        assert (dqn["estimate"] < dqn["high"]).all()
        once = table[table["agent"].isin(["oracle", "fixed:0", "fixed:8"])]
        assert once[["low", "high"]].isna().all(axis=None)
        assert once["estimate"].notna().all()

    def test_improvement(self):
        table = analysed(self.rows).improvement
        pairs = [("dqn", "ppo"), ("dqn", BEST_FIXED), ("ppo", BEST_FIXED)]
        assert [*zip(table["agent"], table["other"])] == pairs
        assert table["probability"][0] == pytest.approx((0 + 8.5 / 9) / 2)
        # Of fixed:8 in the first environment, which one seed of dqn equals, and fixed:0 in the
        # second.
        assert table["probability"][1] == pytest.approx((0.5 + 1) / 2)
        assert table["probability"][2] == 1
        assert table["low"][:2].between(0, table["probability"][:2]).all()
        assert table["high"][:2].between(table["probability"][:2], 1).all()
        assert np.isnan(table["low"][2]), "that all runs are ahead does not make it certain"

    def test_profiles(self):
        table = analysed(self.rows).profiles
        assert [*table["agent"].unique()] == ["dqn", "ppo", BEST_FIXED]
        dqn = table[table["agent"] == "dqn"]
        assert [*dqn["threshold"]] == [*THRESHOLDS]
        expected = aggregates.performance_profile(
            [np.array([0.4, 0.5, 0.6]), np.array([0.6, 0.7, 0.9])], THRESHOLDS
        )
        assert [*dqn["share"]] == [*expected]
        known = dqn.dropna()
        assert (known["low"] >= 0).all()
        assert (known["low"] < known["share"]).all()
        assert (known["high"] <= 1).all()
        assert len(known) > 30
        best = table[table["agent"] == BEST_FIXED]
        # fixed:8 at 0.5, and where that fails fixed:0 at 0.1.
        assert best["share"].iloc[[5, 30, 60]].tolist() == [1, 0.5, 0]

    def test_an_agent_that_lacks_an_environment_is_left_out(self):
        rows = make({"dqn": [4.0, 5.0], "ppo": [7.0, 8.0]}, {"dqn": [6.0, 7.0]})
        statistics = analysed(rows)
        assert "ppo" not in {*statistics.aggregates["agent"], *statistics.profiles["agent"]}
        assert [*statistics.improvement["other"]] == [BEST_FIXED]
        assert "ppo is not in the aggregates, without a score somewhere." in statistics.remarks

    def test_there_are_no_scores_without_an_oracle(self):
        rows = make({"dqn": [4.0, 5.0]}, references=["random", "fixed:0", "fixed:8"])
        statistics = analysed(rows)
        assert statistics.aggregates.empty
        assert statistics.profiles.empty
        assert statistics.summaries["score_low"].isna().all()
        assert len(statistics.improvement) == 1, "for that, returns will do"
        assert sum("There are no aggregates" in each for each in statistics.remarks) == 1

    def test_a_single_environment_will_do(self):
        table = analysed(make({"dqn": [4.0, 5.0, 6.0]})).aggregates
        mean = table.set_index(["agent", "statistic"]).loc[("dqn", "mean")]
        assert mean["estimate"] == pytest.approx(0.5)
        assert mean["low"] < 0.5 < mean["high"]

    def test_the_same_state_says_the_same(self):
        first, again = analysed(self.rows), analysed(self.rows)
        for name in ("summaries", "aggregates", "differences", "improvement", "profiles"):
            pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
        assert first.remarks == again.remarks


HIGH, MIDDLE, LOW = [7.0, 7.1, 7.2], [3.0, 3.1, 3.2], [0.5, 0.4, 0.6]
UNSURE = [3.0, 5.5, 7.5]
NEAR_ZERO = [0.8, 1.1, 1.3]


class TestVerdict:
    @pytest.mark.parametrize(
        ("learners", "said"),
        [
            ({}, "No learner was compared."),
            ({"ppo": HIGH}, "ppo beats every fixed span."),
            ({"ppo": HIGH, "dqn": HIGH}, "ppo and dqn beat every fixed span."),
            ({"dqn": UNSURE}, "dqn cannot be told from fixed:8."),
            ({"dqn": [7.0]}, "dqn cannot be told from fixed:8."),
            (
                {"refiner": NEAR_ZERO},
                "refiner cannot be told from fixed:0 and is worse than the best fixed span, "
                "fixed:8.",
            ),
            (
                {"refiner": [1.0, 1.0, 1.0], "a b": [1.0] * 3, "dqn": [5.0, 5.0]},
                "refiner and a b equal fixed:0 and are worse than the best fixed span, fixed:8. "
                "dqn equals fixed:8.",
            ),
            (
                {"a": LOW, "b": MIDDLE, "c": LOW, "d": HIGH},
                "d beats every fixed span. a, b and c are worse than the best fixed span, fixed:8.",
            ),
        ],
    )
    def test_in_one_environment(self, learners: Returns, said: str):
        assert analysed(make(learners)).verdict == said

    def test_in_several(self):
        environments = [
            {"refiner": NEAR_ZERO, "dqn": HIGH, "ppo": HIGH, "a2c": UNSURE, "qrdqn": MIDDLE}
        ] * 3 + [{"refiner": NEAR_ZERO, "dqn": LOW, "ppo": HIGH, "a2c": MIDDLE, "qrdqn": MIDDLE}]
        assert analysed(make(*environments)).verdict == (
            "ppo beats every fixed span on all 4 environments. "
            "dqn beats every fixed span on 3 of 4 environments and is worse than the best fixed "
            "span on 1 of 4 environments. "
            "refiner cannot be told from fixed:0 on all 4 environments and is worse than the best "
            "fixed span on all 4 environments. "
            "a2c cannot be told from fixed:8 on 3 of 4 environments and is worse than the best "
            "fixed span on 1 of 4 environments. "
            "qrdqn is worse than the best fixed span on all 4 environments."
        )

    def test_a_learner_is_judged_where_it_was_run(self):
        rows = make({"dqn": HIGH, "ppo": HIGH}, {"dqn": HIGH}, {"dqn": HIGH})
        assert analysed(rows).verdict == (
            "dqn beats every fixed span on all 3 environments. ppo beats every fixed span."
        )

    def test_without_fixed_spans(self):
        rows = make({"dqn": HIGH}, references=["random", "oracle"])
        said = "No fixed span was evaluated: there is nothing to compare with."
        assert analysed(rows).verdict == said

    def test_learners_whose_trials_all_failed(self):
        rows = make({"dqn": HIGH, "ppo": [], "a2c": []})
        assert analysed(rows).verdict == (
            "dqn beats every fixed span. ppo and a2c have no trial to compare with a fixed span."
        )


class TestRemarks:
    def test_the_resamples_are_told(self):
        first = analysed(make({"dqn": HIGH}), resamples=1_234).remarks[0]
        assert "(1,234 resamples)" in first
        assert "Student's t" in first

    def test_many_comparisons_are_not_corrected(self):
        remarks = analysed(make({"dqn": HIGH, "ppo": HIGH})).remarks
        assert any(each.startswith("8 differences are judged at 95 % each") for each in remarks)

    def test_where_seeds_are_too_few(self):
        remarks = analysed(make({"dqn": UNSURE, "ppo": [7.0], "a2c": UNSURE + UNSURE})).remarks
        assert [each for each in remarks if "too few" in each] == [
            "3 training seeds are too few to tell dqn from fixed:8.",
            "1 training seed is too few to tell ppo from oracle, random, fixed:0 and fixed:8.",
        ]

    def test_where_seeds_are_too_few_in_some_environments(self):
        remarks = analysed(make({"dqn": UNSURE}, {"dqn": HIGH})).remarks
        said = "3 training seeds are too few to tell dqn from fixed:8 in every environment."
        assert said in remarks

    def test_nothing_is_said_of_enough_seeds(self):
        remarks = analysed(make({"dqn": [*UNSURE, 4.0, 6.0]})).remarks
        assert not any("too few" in each for each in remarks)


def test_nothing_has_finished():
    rows = make({})
    empty = Rows(
        ("one",),
        ("dqn",),
        rows.references,
        rows.trials[:0],
        rows.episodes[:0],
        rows.curves,
        rows.choices,
    )
    statistics = analysed(empty)
    assert statistics.verdict == "dqn has no trial to compare with a fixed span."
    assert statistics.summaries.empty
    assert statistics.differences.empty
