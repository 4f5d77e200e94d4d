"""Several runs together: ``spangym curves`` and ``leaderboard``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.trials.comparison_run import COMPARISON

from .conftest import run_here, trial_folder


@pytest.fixture
def run(finished_run: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run[0], tmp_path / "one"))


@pytest.fixture
def other(run: Path) -> Path:
    """Another run: dqn's trials are others, by their keys and by what they earned."""
    folder = Path(shutil.copytree(run, run.with_name("other")))
    jobs = folder / "jobs.json"
    text = jobs.read_text()
    for seed in (0, 1):
        path = trial_folder(folder, f"dqn/seed-{seed}")
        path.rename(path.with_name(f"seed-{seed}-0123456789abcdef"))
        text = text.replace(path.name, f"seed-{seed}-0123456789abcdef")
    jobs.write_text(text)
    return folder


def test_rows_of_one_run_are_those_of_its_files(run: Path):
    rows = load_results([RunDir(run, COMPARISON)])
    stored = pd.read_csv(run / "evaluation.csv")
    assert rows.environments == ("SpanControl-v0",)
    assert rows.learners == ("pooled", "dqn")
    assert len(rows.baselines) == 13
    assert rows.episodes["return"].tolist() == stored["return"].tolist()
    assert len(rows.trials) == 18
    assert (rows.failed, rows.missing) == ((), 0)
    means, scores = (
        {agent: np.mean(found[name]) for agent, found in rows.trials.groupby("agent")}
        for name in ("return", "score")
    )
    assert scores["random"] == pytest.approx(0)
    assert scores["oracle"] == 1
    expected = (means["dqn"] - means["random"]) / (means["oracle"] - means["random"])
    assert scores["dqn"] == pytest.approx(expected)


def test_what_is_the_same_in_two_runs_stands_once(run: Path, other: Path):
    rows = load_results([RunDir(run, COMPARISON), RunDir(other, COMPARISON)])
    assert rows.environments == ("SpanControl-v0",)
    assert rows.learners == ("pooled", "dqn", "dqn (other)")
    assert len(rows.trials) == 18 + 2
    one, another = (rows.curves[rows.curves["agent"] == name] for name in rows.learners[1:])
    assert one["return"].tolist() == another["return"].tolist()


def test_an_agent_trained_otherwise_is_another_everywhere(run: Path, other: Path):
    """Of one label, but with another option."""
    study = other / "study.toml"
    study.write_text(study.read_text().replace("gamma = 0.5", "gamma = 0.25"))
    rows = load_results([RunDir(run, COMPARISON), RunDir(other, COMPARISON)])
    assert rows.learners == ("pooled", "dqn", "dqn (other)")
    assert len(rows.trials) == 18 + 2


def test_environments_that_differ_are_kept_apart(run: Path, other: Path):
    study = other / "study.toml"
    study.write_text(study.read_text().replace("max_span = 384", "max_span = 300"))
    rows = load_results([RunDir(run, COMPARISON), RunDir(other, COMPARISON)])
    assert rows.environments == ("SpanControl-v0", "SpanControl-v0 (other)")
    assert rows.learners == ("pooled", "dqn")
    assert len(rows.trials) == 36


def test_a_run_in_progress_can_be_read(run: Path):
    """As it is while trials run: some not begun, one failed, one in the middle of its files."""
    shutil.rmtree(trial_folder(run, "fixed-9/seed-0"))
    failed, half = (trial_folder(run, f"dqn/seed-{seed}") for seed in (0, 1))
    (failed / "result.json").unlink()
    (failed / "error.txt").write_text("Traceback ...\nValueError: no luck\n")
    (half / "result.json").unlink()
    (half / "curve.csv").write_text("step,ret")
    rows = load_results([RunDir(run, COMPARISON)])
    assert len(rows.trials) == 15
    assert rows.failed == (("SpanControl-v0/dqn/seed-0", "ValueError: no luck"),)
    assert rows.missing == 2


def test_curves_draws_any_figure_of_several_runs(
    run: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    out = tmp_path / "figures"
    arguments = ["--figure", "reward", "--figure", "pareto", "--x", "qk_pairs"]
    arguments += ["--smooth", 0.5, "--format", "pdf", "--format", "png", "--format", "svg"]
    arguments += ["--table", "csv", "--table", "markdown", "--table", "latex", "--out", out]
    assert run_here(monkeypatch, "curves", run, other, *arguments) == 0
    said = capsys.readouterr().out
    stems = ("reward_curves_qk_pairs", "pareto")
    names = {f"{stem}.{ending}" for stem in stems for ending in ("pdf", "png", "svg")}
    assert {each.name for each in out.iterdir()} == names | {"table.csv", "table.md", "table.tex"}
    assert all(str(each) in said for each in out.iterdir())
    assert (out / "pareto.pdf").read_bytes().startswith(b"%PDF")
    drawn = (out / "reward_curves_qk_pairs.svg").read_text()
    assert "dqn (other)" in drawn
    assert "visited keys" in drawn or "keys visited" in drawn
    picture = np.asarray(Image.open(out / "pareto.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    table = pd.read_csv(out / "table.csv")
    assert {"pooled", "dqn", "dqn (other)", "oracle"} <= {*table["agent"]}
    assert (out / "table.tex").read_text().startswith(r"\begin{tabular}")
    assert "| agent | mean return |" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure", "pareta"], "there is no figure 'pareta'; did you mean 'pareto'"),
        (["--figure", "radar"], "radar: not drawn: "),
        (["--x", "time"], "'--x'"),
        (["--smooth", "2"], "'--smooth'"),
        (["--format", "gif"], "'--format'"),
    ],
)
def test_what_curves_cannot_draw(
    run: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert run_here(monkeypatch, "curves", run, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_several_runs_need_a_place(
    run: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "curves", run, other) == 2
    assert "name a folder for the files with --out" in capsys.readouterr().err


def test_leaderboard_ranks_what_it_has_reproduced(
    run: Path,
    other: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    path = tmp_path / "board.json"
    assert run_here(monkeypatch, "leaderboard", run, other, "--json", path) == 0
    said = capsys.readouterr()
    assert "40 evaluation episodes were played again" in " ".join(said.out.split())
    board = json.loads(path.read_text())
    ranks = {each["agent"]: each["rank"] for each in board["entries"]}
    assert ranks["oracle"] == 1
    assert sorted(ranks.values()) == [*range(1, len(ranks) + 1)]
    assert {"pooled", "dqn", "dqn (other)", "random"} <= {*ranks}
    scores = [each["score"] for each in board["entries"]]
    assert scores == sorted(scores, reverse=True)


def test_leaderboard_leaves_out_what_is_not_reproduced(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """A return that was bettered by hand."""
    for seed in (0, 1):
        path = trial_folder(run, f"dqn/seed-{seed}") / "evaluation.csv"
        rows = pd.read_csv(path)
        rows["return"] += 1
        rows.to_csv(path, index=False)
    board = tmp_path / "board.json"
    assert run_here(monkeypatch, "leaderboard", run, "--json", board) == 1
    said = capsys.readouterr()
    assert said.err.count("not reproduced: ") == 2
    assert "dqn/seed-0, episode 1000000: rewards NOT reproduced" in said.err
    assert "dqn" not in {each["agent"] for each in json.loads(board.read_text())["entries"]}
