from pathlib import Path

import pandas as pd
import pytest

from spangym.experiments.trials.replay import compare_values

from ..conftest import run_here, trial_folder


def test_a_new_run_is_reproduced(
    finished_run: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert run_here(monkeypatch, "validate", finished_run[0]) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    trials = 2 * 2 + 2 + 12
    assert len(rows) == 2 * trials
    assert not any("NOT" in row or "rounding" in row for row in rows)
    assert last.count(str(2 * trials)) == 3


@pytest.mark.parametrize(
    ("column", "change", "words", "code"),
    [
        ("return", 1e-2, "rewards NOT reproduced", 1),
        ("output_norm", 1.0, "outputs NOT reproduced", 1),
        ("reward_entropy", 1e-9, "up to rounding", 0),
    ],
)
def test_what_differs_is_named(
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    column: str,
    change: float,
    words: str,
    code: int,
):
    path = trial_folder(copied_run, "dqn/seed-1") / "evaluation.csv"
    rows = pd.read_csv(path)
    rows.loc[1, column] += change
    rows.to_csv(path, index=False)
    assert run_here(monkeypatch, "validate", copied_run) == code
    changed = [row for row in capsys.readouterr().out.splitlines() if words in row]
    assert len(changed) == 1
    assert changed[0].startswith("SpanControl-v0/dqn/seed-1, episode 1000001: ")


def test_a_reward_that_does_not_round_must_be_equal():
    assert "rounding" in str(compare_values(1.0, 1.0 + 1e-9, allow_rounding=True))
    assert "NOT" in str(compare_values(1.0, 1.0 + 1e-9, allow_rounding=False))


@pytest.mark.parametrize("actions", ["x", "1 2", "1 2 3 99"])
def test_actions_that_cannot_be_played(
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    actions: str,
):
    path = trial_folder(copied_run, "dqn/seed-1") / "evaluation.csv"
    rows = pd.read_csv(path, dtype={"actions": str})
    rows["actions"] = actions
    rows.to_csv(path, index=False)
    assert run_here(monkeypatch, "validate", copied_run) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert "its actions" in said
