import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spangym.experiments.statistics import AgentSummary, half_width, summarise, verdict


def test_half_width_is_scipys():
    values = np.random.default_rng(0).normal(size=5)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert half_width(values[:1]) is None


def rows(agent: str, returns: list[list[float]]) -> list[dict[str, object]]:
    """Rows of an agent's evaluation from the returns of its episodes, by training seed."""
    return [
        {
            "agent": agent,
            "training_seed": seed,
            "return": value,
            "mean_span": 10.0 * (seed + 1),
            "visited_keys": 400,
        }
        for seed, episodes in enumerate(returns)
        for value in episodes
    ]


def test_seeds_are_the_unit_of_replication():
    evaluation = pd.DataFrame(
        rows("random", [[0.0, 2.0], [1.0, 1.0]])
        + rows("fixed:3", [[3.0, 3.0]])
        + rows("fixed:4", [[5.0, 5.0]])
        + rows("oracle", [[7.0, 7.0]])
        + rows("dqn", [[2.0, 4.0], [4.0, 6.0]])
    )
    seconds = dict.fromkeys(evaluation["agent"], 1.5)
    summaries = summarise(evaluation, seconds, decisions=4)
    assert [each.label for each in summaries] == ["oracle", "fixed:4", "dqn", "fixed:3", "random"]
    dqn = summaries[2]
    assert dqn.mean_return == 4.0
    # Of the two seeds' means 3 and 5, not of the four episodes.
    assert dqn.interval == pytest.approx(half_width(np.array([3.0, 5.0])))
    assert dqn.score == pytest.approx((4 - 1) / (7 - 1))
    assert (dqn.mean_span, dqn.visited_keys, dqn.seconds, dqn.seeds) == (15.0, 100.0, 1.5, 2)
    assert summaries[0].score == 1.0
    assert summaries[4].score == 0.0
    assert summaries[0].interval is None


def test_no_score_without_a_gap_between_the_references():
    evaluation = pd.DataFrame(rows("random", [[1.0]]) + rows("oracle", [[1.0]]))
    summaries = summarise(evaluation, {"random": 1.0, "oracle": 1.0}, 1)
    assert [each.score for each in summaries] == [None, None]


def summary(label: str, mean: float, interval: float | None) -> AgentSummary:
    return AgentSummary(label, mean, interval, None, 0.0, 0.0, 0.0, 3)


FIXED = [summary("fixed:8", 10.0, None), summary("fixed:1", 5.0, None)]


@pytest.mark.parametrize(
    ("learners", "said"),
    [
        ([], "The best fixed span is fixed:8; no learner was compared."),
        ([("ppo", 12.0, 1.0)], "ppo beats the best fixed span, fixed:8."),
        (
            [("ppo", 12.0, 1.0), ("dqn", 11.5, 1.0), ("refiner", 2.0, 1.0)],
            "ppo and dqn beat the best fixed span, fixed:8. refiner is worse than it.",
        ),
        (
            [("ppo", 10.5, 1.0), ("a", 3.0, 1.0), ("b", 2.0, 1.0), ("c", 1.0, 1.0)],
            "No learner beats the best fixed span, fixed:8. a, b and c are worse than it. "
            "For ppo the seeds are too few to tell.",
        ),
        (
            [("ppo", 10.0 + 1e-7, 1e-9), ("dqn", 10.0, None)],
            "No learner beats the best fixed span, fixed:8. ppo and dqn equal it.",
        ),
        (
            [("ppo", 12.0, None)],
            "No learner beats the best fixed span, fixed:8. For ppo the seeds are too few to tell.",
        ),
    ],
)
def test_verdict_is_made_from_the_numbers(
    learners: list[tuple[str, float, float | None]], said: str
):
    assert verdict([*(summary(*each) for each in learners), *FIXED]) == said


def test_summaries_hold_nothing_that_json_lacks():
    evaluation = pd.DataFrame(rows("fixed:0", [[1.0]]))
    (only,) = summarise(evaluation, {"fixed:0": 1.0}, 1)
    assert {type(value) for value in dataclasses.asdict(only).values()} <= {
        str,
        float,
        int,
        type(None),
    }
