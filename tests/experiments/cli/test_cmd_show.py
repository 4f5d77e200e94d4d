"""``spangym show``."""

import json
import re
from pathlib import Path

import pytest

from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.runner.run_dir import RunDir
from spangym.utils.text import MINUS
from tests.factories import tiny_pilot_study

from ..conftest import run_here, trial_folder
from .test_cmd_clean import add_superseded

RESULTS = Path(__file__).parents[3] / "experiments" / "results"


def test_text_is_that_of_the_end_of_the_run(
    finished_run: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder, printed = finished_run
    assert run_here(monkeypatch, "show", folder) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"report: {folder / 'report.html'}"
    end = printed.splitlines()[:-1]
    assert lines == end[-len(lines) :]
    assert lines[0].strip() == "SpanControl-v0"


@pytest.mark.parametrize(
    ("format_name", "start", "row"),
    [
        ("markdown", "### SpanControl-v0\n\n| agent |", r"^\| dqn \| -?[\d.]+ ± "),
        ("latex", "\\begin{tabular}{lrrrrrr}\n\\toprule\n", r"^dqn & \S+ \$\\pm\$ "),
        ("csv", "environment,group,split,return,return_low,", r"^SpanControl-v0,dqn,evaluation,"),
    ],
)
def test_tables_alone(
    finished_run: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    format_name: str,
    start: str,
    row: str,
):
    assert run_here(monkeypatch, "show", finished_run[0], "--format", format_name) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(start)
    assert re.search(row, printed.out.replace(MINUS, "-"), re.MULTILINE)
    assert not printed.err
    assert "report" not in printed.out


def test_what_is_not_finished_and_what_is_superseded(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = copied_run.rename(copied_run.with_name("my run"))
    (trial_folder(folder, "dqn/seed-0") / "result.json").unlink()
    failed = trial_folder(folder, "dqn/seed-1")
    (failed / "result.json").unlink()
    (failed / "error.txt").write_text("Traceback\nValueError: not today\n")
    add_superseded(folder, "pooled/seed-0")
    monkeypatch.chdir(folder.parent)
    assert run_here(monkeypatch, "show", "my run") == 0
    printed = capsys.readouterr()
    assert "2 of 18 trials in my run are not finished" in printed.out
    assert "spangym compare --resume 'my run'" in printed.out
    assert "1 superseded trial in my run: remove with spangym clean 'my run'" in printed.out
    assert printed.err == "failed: SpanControl-v0/dqn/seed-1: ValueError: not today\n"


def test_a_run_in_which_nothing_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    RunDir(tmp_path, PILOT).create(tiny_pilot_study(), {})
    assert run_here(monkeypatch, "show", tmp_path) == 0
    printed = capsys.readouterr().out
    assert re.match(r"(\d+) of \1 trials in ", printed)
    assert "spangym pilot --resume" in printed
    assert run_here(monkeypatch, "show", tmp_path, "--format", "csv") == 2
    assert "no trial is finished" in capsys.readouterr().err


def test_a_stored_summary_is_shown_like_its_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = RESULTS / "quickstart"
    assert run_here(monkeypatch, "show", folder, "--format", "markdown") == 0
    assert capsys.readouterr().out == (folder / "table.md").read_text("utf-8")
    assert run_here(monkeypatch, "show", folder) == 0
    printed = capsys.readouterr().out
    for line in json.loads((folder / "summary.json").read_text("utf-8"))["headlines"]:
        assert line in printed
    assert f"spangym compare {folder / 'study.toml'}" in printed
