import dataclasses
from pathlib import Path

import pytest

from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports import write_outputs
from spangym.experiments.runner.run_dir import RunDir
from tests.factories import tiny_pilot_study

from ..conftest import run_here
from ..drawing import plot_data_of
from .synthetic import make_pilot


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
    assert run_here(monkeypatch, "curves", finished, "--table", "csv") == 0
    assert {each.name for each in finished.iterdir()} - before == {
        "error.png",
        "error.svg",
        "loss.png",
        "loss.svg",
        "table.csv",
        "by_action.csv",
    }
    said = capsys.readouterr().out
    assert f"drawn: {finished / 'error.png'}" in said
    assert "3 of 9 jobs are not finished and not drawn" in said


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
        "keys_wall.svg",
        "spans_wall.svg",
        "by_span.svg",
    }
    assert "seconds of the training" in (out / "error_wall.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "qk_pairs"], "--x qk_pairs is for comparisons: a pilot is drawn against"),
        (["--figure", "errors"], "there is no figure 'errors'; did you mean 'error'?"),
        (["--figure", "reward"], "there is no figure 'reward'"),
        (["elsewhere"], "is a pilot: pilots are drawn one at a time"),
        ([], "no job is finished in"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    assert run_here(monkeypatch, "curves", folder, *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(folder.glob("*.png"))
