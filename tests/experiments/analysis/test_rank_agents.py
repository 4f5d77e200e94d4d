"""Notes of the leaderboard on what has no score."""

import pandas as pd

from spangym.experiments.analysis.rank_agents import explain_missing

ENVIRONMENTS = ("one", "two", "three")
TRIALS = [("random", "one"), ("oracle", "one"), ("dqn", "one"), ("ppo", "one")]
FINISHED = pd.DataFrame(
    [*TRIALS, ("random", "two"), ("dqn", "two"), ("random", "three"), ("oracle", "three")],
    columns=["group", "environment"],
)


def test_what_has_no_score_has_a_reason():
    scored = {(agent, "one") for agent in ("random", "oracle", "dqn")}
    notes = explain_missing(ENVIRONMENTS, FINISHED, scored)
    assert [note.partition(" ")[0] for note in notes] == ["two", "three", "ppo"]
    assert "oracle" in notes[0]
    assert "random" not in notes[0]
    assert "same return" in notes[1]
    assert "one" in notes[2]


def test_complete_runs_need_no_notes():
    assert explain_missing(("one",), FINISHED.query("environment == 'one'"), {*TRIALS}) == ()
