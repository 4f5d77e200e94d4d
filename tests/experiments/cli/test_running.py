"""A run whose folder is moved or deleted, and the commands that a run prints."""

import shlex
import shutil
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from spangym.experiments.cli.running import run_and_report
from spangym.experiments.cli.terminal import make_console
from spangym.experiments.reports.tables import Table, table_row, to_rich_table
from spangym.experiments.runner.job import Event, Message, PlacedJob, Started
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.workload import Workload
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.utils.errors import UserError

from ..conftest import run_here, trial_folder
from .conftest import files_of

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
WORK = Workload(1, {}, 0)
SUMMARIES = sorted(path.parent.name for path in RESULTS.glob("*/summary.json"))


class Interferes:
    """An executor whose first job is running when something happens to its folder."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.closed = False

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        job, _ = jobs[0]
        try:
            yield Started(job)
            self._act()
            yield Message(job, "goes on")
            raise AssertionError("the run goes on in another folder")
        finally:
            self.closed = True


def _run(folder: Path, act: Callable[[], object]) -> None:
    executor = Interferes(act)
    with pytest.raises(typer.Exit) as ended:
        run_and_report(RunDir[Any, Any].open(folder, COMPARISON), WORK, executor, quiet=True)
    assert ended.value.exit_code == 1
    assert executor.closed


def test_a_moved_run_is_resumed_where_it_is(
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (trial_folder(copied_run, "dqn/seed-1") / "result.json").unlink()
    place = copied_run.with_name("my runs' place")
    _run(copied_run, lambda: copied_run.rename(place))
    assert not copied_run.exists()
    kept = files_of(place / "jobs")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    command = shlex.split(said.partition("resume with: ")[2])
    assert command == ["spangym", "compare", "--resume", str(place)]
    assert run_here(monkeypatch, *command[1:], "--workers", 1) == 0
    dqn = str(trial_folder(place, "dqn/seed-1"))
    again = files_of(place / "jobs").items()
    assert again >= {path: each for path, each in kept.items() if dqn not in path}.items()
    assert (trial_folder(place, "dqn/seed-1") / "result.json").exists()


def test_a_deleted_run_is_not_made_again(copied_run: Path, capsys: pytest.CaptureFixture[str]):
    (trial_folder(copied_run, "dqn/seed-1") / "result.json").unlink()

    def replace() -> None:
        shutil.rmtree(copied_run)
        copied_run.mkdir()

    _run(copied_run, replace)
    assert [*copied_run.iterdir()] == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{str(copied_run)!r} was deleted" in said


def test_a_deleted_working_folder_is_named(
    copied_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The run is elsewhere, and a new process cannot start in a folder that does not exist."""
    (trial_folder(copied_run, "dqn/seed-1") / "result.json").unlink()
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    folder = RunDir[Any, Any].open(Path("..", "copied"), COMPARISON)
    (tmp_path / "working").rmdir()
    with pytest.raises(typer.Exit) as ended:
        run_and_report(folder, WORK, LocalExecutor(1), quiet=True)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert "the working folder was deleted" in said
    assert shlex.split(said)[-1] == str(copied_run)


def test_printed_commands_are_quoted(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = copied_run.rename(copied_run.with_name("a 'run' & $more"))
    assert run_here(monkeypatch, "compare", "--resume", folder) == 0
    command = capsys.readouterr().out.rpartition("report.html; ")[2].strip().removesuffix(")")
    assert shlex.split(command) == ["tensorboard", "--logdir", str(folder)]
    resume = RunDir(folder, COMPARISON).resume_command
    assert shlex.split(resume) == ["spangym", "compare", "--resume", str(folder)]


def test_a_name_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]):
    """Not as a picture, a style, or a control sequence."""
    console = make_console()
    for name in ("mine:Child: not compared", "[bold]mine[/bold]"):
        console.print(name, markup=False, highlight=False)
        console.print(to_rich_table(Table(name, ("agent",), (table_row(name),))))
        assert capsys.readouterr().out.count(name) == 3


def test_there_are_stored_summaries():
    assert {"quickstart", "suite"} < {*SUMMARIES}


@pytest.mark.parametrize("name", SUMMARIES)
@pytest.mark.parametrize("command", ["curves", "validate", "leaderboard", "compare --resume"])
def test_a_stored_summary_is_not_called_damaged(
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder, is_pilot = RESULTS / name, name.startswith("pilot")
    before = files_of(folder)
    if is_pilot and command != "curves":
        with pytest.raises(UserError, match="not a run folder"):
            RunDir.open(folder, COMPARISON)
        return
    assert run_here(monkeypatch, *command.split(), folder) == 2
    said = capsys.readouterr().err
    assert "summary" in said
    assert "damaged" not in said
    words = shlex.split(said.rpartition("with `")[2].rstrip("`\n"))
    assert words[:2] == ["spangym", "pilot" if is_pilot else "compare"]
    assert words[-1] == str(folder / "study.toml")
    assert files_of(folder) == before
