import dataclasses
import shutil
from pathlib import Path

import pytest

from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports import write_outputs
from spangym.experiments.runner.run_dir import RunDir
from tests.factories import tiny_pilot_study

from ..conftest import run_here, trial_folder
from ..drawing import plot_data_of
from ..pilot.synthetic import make_pilot
from .conftest import files_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a pilot in which nothing is finished."""
    path = tmp_path / "pilot"
    RunDir(path, PILOT).create(tiny_pilot_study(), {})
    return path


@pytest.fixture
def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with made-up rows."""
    rows = make_pilot(variants=("standard", "hybrid-sharper-longer"), failed=(), examples=())
    rows = dataclasses.replace(rows, missing=3)

    def load_data(_: object) -> PlotData:
        return plot_data_of(rows)

    monkeypatch.setattr(write_outputs, "load_data", load_data)
    return folder


def test_curves_draws_error_and_loss(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = {each.name for each in finished.iterdir()}
    assert run_here(monkeypatch, "curves", finished) == 0
    assert {each.name for each in finished.iterdir()} - before == {
        "error.png",
        "error.svg",
        "loss.png",
        "loss.svg",
    }
    said = capsys.readouterr().out
    assert f"drawn: {finished / 'error.png'}" in said
    assert "3 of 9" in said


def test_curves_draws_what_is_asked_for_elsewhere(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    arguments = ["--figure", "all", "--x", "wall", "--format", "svg", "--out", out]
    assert run_here(monkeypatch, "curves", finished, *arguments) == 0
    assert {each.name for each in out.iterdir()} == {
        "error_wall.svg",
        "loss_wall.svg",
        "runtime.svg",
        "qk_pairs_wall.svg",
        "spans_wall.svg",
        "error_by_action.svg",
        "pareto.svg",
        "differences.svg",
    }
    assert "seconds in training" in (out / "error_wall.svg").read_text()


def test_a_figure_of_a_comparison_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "curves", finished, "--figure", "reward") == 2
    assert "no return" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--x", "qk_pairs"], "--x qk_pairs"),
        (["--figure", "errors"], "'errors'; did you mean 'error'"),
        (["elsewhere"], "one at a time"),
        ([], "is finished in"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
):
    assert run_here(monkeypatch, "curves", folder, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1
    assert not list(folder.glob("*.png"))


def test_curves_redraws_the_same_and_touches_nothing_else(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = files_of(copied_run)
    for name in ("reward_curves.png", "reward_curves.svg"):
        (copied_run / name).unlink()
    assert run_here(monkeypatch, "curves", copied_run) == 0
    assert files_of(copied_run) == before
    assert "drawn" in capsys.readouterr().out


def test_curves_draws_what_is_finished(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (trial_folder(copied_run, "dqn/seed-1") / "result.json").unlink()
    assert run_here(monkeypatch, "curves", copied_run) == 0
    assert "1 of 18" in capsys.readouterr().out


def test_curves_draws_learners_alone(copied_run: Path, monkeypatch: pytest.MonkeyPatch):
    """Learners run first: so it stands after an early Ctrl-C."""
    for name in ("fixed-*", "random", "oracle", "threshold"):
        for reference in copied_run.glob(f"jobs/*/{name}"):
            shutil.rmtree(reference)
    assert run_here(monkeypatch, "curves", copied_run) == 0
