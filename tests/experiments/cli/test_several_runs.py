"""``spangym curves`` and ``spangym leaderboard`` on several runs together."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ..conftest import run_here, trial_folder


def test_curves_draws_any_figure_of_several_runs(
    copied_run: Path,
    other_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    out = tmp_path / "figures"
    arguments = ["--figure", "reward", "--figure", "pareto", "--x", "qk_pairs"]
    arguments += ["--smooth", 0.5, "--format", "pdf", "--format", "png", "--format", "svg"]
    arguments += ["--out", out]
    assert run_here(monkeypatch, "curves", copied_run, other_run, *arguments) == 0
    said = capsys.readouterr().out
    stems = ("reward_curves_qk_pairs", "pareto")
    names = {f"{stem}.{ending}" for stem in stems for ending in ("pdf", "png", "svg")}
    assert {each.name for each in out.iterdir()} == names
    assert all(str(each) in said for each in out.iterdir())
    assert (out / "pareto.pdf").read_bytes().startswith(b"%PDF")
    drawn = (out / "reward_curves_qk_pairs.svg").read_text()
    assert "dqn (other)" in drawn
    assert "query-key pairs" in drawn
    picture = np.asarray(Image.open(out / "pareto.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_show_prints_several_runs_together(
    copied_run: Path,
    other_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    printed = {}
    for name in ("csv", "markdown", "latex"):
        assert run_here(monkeypatch, "show", copied_run, other_run, "--format", name) == 0
        printed[name] = capsys.readouterr().out
    table = pd.read_csv(io.StringIO(printed["csv"]))
    assert {"pooled", "dqn", "dqn (other)", "oracle"} <= {*table["group"]}
    assert printed["latex"].startswith(r"\begin{tabular}")
    assert "| dqn (other) |" in printed["markdown"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure", "pareta"], "did you mean 'pareto'"),
        (["--figure", "radar"], "radar"),
        (["--x", "time"], "'--x'"),
        (["--smooth", "2"], "'--smooth'"),
        (["--format", "gif"], "'--format'"),
    ],
)
def test_curves_refuses_bad_input(
    copied_run: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert run_here(monkeypatch, "curves", copied_run, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_curves_of_several_runs_need_a_folder(
    copied_run: Path,
    other_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert run_here(monkeypatch, "curves", copied_run, other_run) == 2
    assert "--out" in capsys.readouterr().err


def test_leaderboard_ranks_reproduced_agents(
    copied_run: Path,
    other_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    path = tmp_path / "board.json"
    assert run_here(monkeypatch, "leaderboard", copied_run, other_run, "--json", path) == 0
    said = capsys.readouterr()
    assert "40 evaluation episodes" in " ".join(said.out.split())
    board = json.loads(path.read_text())
    ranks = {each["agent"]: each["rank"] for each in board["entries"]}
    assert ranks["oracle"] == 1
    assert sorted(ranks.values()) == [*range(1, len(ranks) + 1)]
    assert {"pooled", "dqn", "dqn (other)", "random"} <= {*ranks}
    scores = [each["score"] for each in board["entries"]]
    assert scores == sorted(scores, reverse=True)


def test_leaderboard_rejects_what_is_not_reproduced(
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    """The returns of an agent were raised by hand."""
    for seed in (0, 1):
        path = trial_folder(copied_run, f"dqn/seed-{seed}") / "evaluation.csv"
        rows = pd.read_csv(path)
        rows["return"] += 1
        rows.to_csv(path, index=False)
    board = tmp_path / "board.json"
    assert run_here(monkeypatch, "leaderboard", copied_run, "--json", board) == 1
    said = capsys.readouterr()
    assert said.err.count("not reproduced: ") == 2
    assert "dqn/seed-0, episode 1000000: rewards NOT" in said.err
    assert "dqn" not in {each["agent"] for each in json.loads(board.read_text())["entries"]}
