"""``spangym clean``."""

import os
import shutil
import time
from pathlib import Path

import pytest

from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.runner.job_files import job_lock
from spangym.experiments.runner.run_dir import RunDir
from tests.factories import tiny_pilot_study

from ..conftest import run_here, trial_folder
from .conftest import files_of


def add_superseded(run: Path, name: str) -> Path:
    """Copy a trial to a folder with another hash, as if the study had been changed."""
    folder = trial_folder(run, name)
    return Path(shutil.copytree(folder, folder.with_name("seed-9-0123456789abcdef")))


def make_old(path: Path) -> None:
    """Make a file or folder that was written two hours ago."""
    path.touch()
    hours_ago = time.time() - 7200
    os.utime(path, (hours_ago, hours_ago))


def test_what_is_not_needed_is_removed(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    needed = files_of(copied_run)
    superseded = add_superseded(copied_run, "dqn/seed-0")
    make_old(copied_run / ".123-report.html")
    make_old(trial_folder(copied_run, "dqn/seed-1") / "checkpoints" / ".7-step-1.safetensors")
    kept = copied_run / ".124-summary.json"
    kept.write_text("being written")
    before = files_of(copied_run)
    assert run_here(monkeypatch, "clean", copied_run, "--dry-run") == 0
    dry = capsys.readouterr().out
    assert files_of(copied_run) == before
    assert run_here(monkeypatch, "clean", copied_run) == 0
    said = capsys.readouterr().out
    assert said == dry.replace("would remove", "removed")
    assert len(said.splitlines()) == 4
    size = sum(len(content) for name, content in before.items() if superseded.name in name)
    assert f"{superseded.name} (superseded trial, {size / 1e6:.1f} MB)" in said
    assert said.endswith(f"removed: 1 superseded trial, 2 temporary files, {size / 1e6:.1f} MB\n")
    assert files_of(copied_run) == {**needed, str(kept): b"being written"}
    assert run_here(monkeypatch, "clean", copied_run) == 0
    assert capsys.readouterr().out == "removed: 0 superseded trials, 0 temporary files, 0.0 MB\n"


def test_a_superseded_trial_that_is_running_stays(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    superseded = add_superseded(copied_run, "dqn/seed-0")
    with job_lock(superseded):
        assert run_here(monkeypatch, "clean", copied_run) == 0
    assert "another process uses it" in capsys.readouterr().out
    assert superseded.exists()


def test_files_of_others_stay(copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the user in the run folder, and of another run behind a link."""
    make_old(copied_run / ".2024-notes.md")
    elsewhere = tmp_path / "elsewhere"
    add_superseded(copied_run, "dqn/seed-0")
    agent = trial_folder(copied_run, "dqn/seed-0").parent
    agent.rename(elsewhere)
    agent.symlink_to(elsewhere)
    before = files_of(elsewhere)
    assert run_here(monkeypatch, "clean", copied_run) == 0
    assert files_of(elsewhere) == before
    assert (copied_run / ".2024-notes.md").exists()


def test_folders_without_any_job_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The run of a pilot in which nothing is finished."""
    RunDir(tmp_path, PILOT).create(tiny_pilot_study(), {})
    files = files_of(tmp_path)
    folder = tmp_path / "jobs" / "earlier" / "seed-0-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "curve.csv").write_text("")
    assert run_here(monkeypatch, "clean", tmp_path) == 0
    assert "removed: 1 superseded trial" in capsys.readouterr().out
    assert files_of(tmp_path) == files
    assert not folder.parent.exists()


@pytest.mark.parametrize("files", [(), ("thesis.tex",), ("study.toml",)])
def test_a_folder_that_is_not_a_run_is_refused(
    files: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder = tmp_path / "jobs" / "a" / "b" / "seed-0-0123456789abcdef"
    folder.mkdir(parents=True)
    for each in files:
        (tmp_path / each).write_text("years of work")
    assert run_here(monkeypatch, "clean", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert folder.exists()
