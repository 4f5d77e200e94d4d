"""The command line as a user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.trials.comparison_run import COMPARISON

from ..conftest import TINY, run_here, spangym, trial_folder
from .conftest import files_of

CURVE = "step,return,qk_pairs,wall_seconds"
FIXED = [f"fixed:{action}" for action in range(10)]
AGENTS = ["pooled", "dqn", "random", *FIXED, "threshold", "oracle"]


class TestFinishedRun:
    def test_folder_holds_everything(self, finished_run: tuple[Path, str]):
        folder, _ = finished_run
        names = {each.name for each in folder.iterdir()}
        assert names == {
            "study.toml",
            "manifest.json",
            "jobs.json",
            "jobs",
            "evaluation.csv",
            "summary.json",
            "reward_curves.png",
            "reward_curves.svg",
            "report.html",
        }
        trials = sorted(str(each.parent.relative_to(folder)) for each in folder.rglob("curve.csv"))
        assert len(trials) == 2 + 2 + 2 + 12
        for trial in trials:
            files = {each.name.split(".")[0] for each in (folder / trial).iterdir()}
            learns = "pooled" in trial or "dqn" in trial
            always = {
                "agent",
                "action_counts",
                "curve",
                "evaluation",
                "events",
                "job",
                "regret",
                "result",
            }
            assert files == always | ({"checkpoints"} if learns else set())
        heads = {each.read_text().partition("\n")[0] for each in folder.rglob("curve.csv")}
        assert len(heads) == 1

    def test_table_shows_every_agent(self, finished_run: tuple[Path, str]):
        _, printed = finished_run
        for agent in AGENTS:
            assert re.search(rf"^ +{agent} +-?\d+\.\d{{3}}", printed, re.MULTILINE), agent
        for name in ("mean return", "score", "mean span", "seconds"):
            assert name in printed

    def test_study_is_runnable_again(self, finished_run: tuple[Path, str]):
        folder, _ = finished_run
        assert parse_study((folder / "study.toml").read_text(), "") == parse_study(TINY, "")

    def test_manifest_says_what_it_was_made_with(self, finished_run: tuple[Path, str]):
        manifest = json.loads((finished_run[0] / "manifest.json").read_text())
        assert manifest["versions"]["python"].startswith("3.")
        assert manifest["machine"]["device"] == "cpu"
        assert manifest["command"][1:] == ["compare", "tiny.toml", "--out", "run", "--workers", "2"]
        hashes = manifest["content_sha256"]["text"]["train"]
        assert set(hashes) == {"documentation", "code"}
        assert all(len(each) == 64 for each in hashes.values())

    def test_every_agent_is_judged_on_the_same_seeds(self, finished_run: tuple[Path, str]):
        rows = pd.read_csv(finished_run[0] / "evaluation.csv")
        assert sorted(rows["agent"].unique()) == sorted(AGENTS)
        for _, each in rows.groupby(["agent", "training_seed"]):
            assert each["evaluation_seed"].tolist() == [1_000_000, 1_000_001]

    def test_summary_agrees_with_the_rows(self, finished_run: tuple[Path, str]):
        folder, printed = finished_run
        summary = json.loads((folder / "summary.json").read_text())
        rows = pd.read_csv(folder / "evaluation.csv")
        for each in summary["groups"]:
            mine = rows[rows["agent"] == each["group"]]
            assert each["return"] == pytest.approx(mine["return"].mean())
        assert len(summary["headlines"]) == 2
        for headline in summary["headlines"]:
            assert headline in " ".join(printed.split())
        assert summary["failed"] == {}

    def test_report_needs_nothing_else(self, finished_run: tuple[Path, str]):
        report = (finished_run[0] / "report.html").read_text()
        assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)""", report)
        assert "<svg" in report
        for agent in AGENTS:
            assert f"<span>{agent}</span>" in report

    def test_pictures_show_something(self, finished_run: tuple[Path, str]):
        picture = np.asarray(Image.open(finished_run[0] / "reward_curves.png").convert("RGB"))
        assert picture.shape[0] > 500
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
        drawn = (finished_run[0] / "reward_curves.svg").read_text()
        for label in ("pooled", "dqn", "random", "environment steps", "return"):
            assert label in drawn

    def test_again_with_other_jobs_gives_the_same_returns(
        self, finished_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        folder, _ = finished_run
        again = tmp_path / "again"
        command = ["compare", folder / "study.toml", "--workers", 1, "--out", again]
        assert run_here(monkeypatch, *command) == 0
        assert (again / "evaluation.csv").read_bytes() == (folder / "evaluation.csv").read_bytes()
        for curve in folder.rglob("curve.csv"):
            one, other = (
                pd.read_csv(root / curve.relative_to(folder)).drop(columns="wall_seconds")
                for root in (folder, again)
            )
            pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_resume_refuses_other_texts(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    manifest = json.loads((copied_run / "manifest.json").read_text())
    manifest["content_sha256"]["text"]["train"]["code"] = "0" * 64
    (copied_run / "manifest.json").write_text(json.dumps(manifest))
    assert run_here(monkeypatch, "compare", "--resume", copied_run) == 2
    assert "different content" in capsys.readouterr().err


def test_resume_keeps_what_is_finished(
    copied_run: Path,
    finished_run: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    gone = trial_folder(copied_run, "dqn/seed-1")
    (gone / "result.json").unlink()
    (gone / "curve.csv").write_text("half a r")
    kept = {
        path: content for path, content in files_of(copied_run / "jobs").items()
        if "dqn/seed-1" not in path
    }  # fmt: skip
    (copied_run / "evaluation.csv").unlink()
    assert run_here(monkeypatch, "compare", "--resume", copied_run, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "[18/18] SpanControl-v0/dqn/seed-1: finished" in printed
    (resumed,) = json.loads((copied_run / "manifest.json").read_text())["resumed"]
    assert resumed["command"][1:3] == ["compare", "--resume"]
    assert printed.count("finished (") == 1
    assert kept.items() <= files_of(copied_run / "jobs").items()
    again, first = (root / "evaluation.csv" for root in (copied_run, finished_run[0]))
    assert again.read_bytes() == first.read_bytes()


def test_interrupt_keeps_what_is_finished_and_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A real Ctrl-C: SIGINT to the whole process group, as a terminal sends it."""
    (tmp_path / "tiny.toml").write_text(
        TINY.replace("total_timesteps = 64", "total_timesteps = 400")
    )
    command = [str(Path(sys.executable).with_name("spangym")), "compare", "tiny.toml"]
    running = subprocess.Popen(
        [*command, "--agent", "pooled", "--workers", "1", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    trials = tmp_path / "run" / "jobs"
    deadline = time.monotonic() + 60
    while not (
        [*trials.glob("*/pooled/seed-1-*/curve.csv")]
        and [*trials.glob("*/pooled/seed-0-*/result.json")]
    ):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    printed, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in printed
    assert re.fullmatch(r"interrupted: [1-9]\d* of 16 .* compare --resume run\n", errors)
    first = trial_folder(tmp_path / "run", "pooled/seed-0")
    kept = files_of(first)
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, *errors.rpartition("spangym ")[2].split(), "--workers", 1) == 0
    assert files_of(first) == kept
    assert len(list(trials.rglob("result.json"))) == 16


def test_killed_with_all_its_processes_it_goes_on(tmp_path: Path, finished_run: tuple[Path, str]):
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [str(Path(sys.executable).with_name("spangym")), "compare", "tiny.toml"]
    running = subprocess.Popen(
        [*command, "--workers", "1", "--checkpoint-seconds", "0", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    folder = tmp_path / "run"
    deadline = time.monotonic() + 90
    while len([*folder.glob("jobs/*/*/seed-1-*/checkpoints/step-*")]) < 2:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    done = spangym(["compare", "--resume", "run", "--workers", 1], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "evaluation.csv").read_bytes() == (
        finished_run[0] / "evaluation.csv"
    ).read_bytes()
    for name in ("pooled/seed-1", "dqn/seed-1"):
        mine, whole = (
            pd.read_csv(trial_folder(root, name) / "curve.csv").drop(columns="wall_seconds")
            for root in (folder, finished_run[0])
        )
        pd.testing.assert_frame_equal(mine, whole, check_exact=True)


def test_raising_the_steps_may_be_killed(copied_run: Path, monkeypatch: pytest.MonkeyPatch):
    """As soon as the study is the longer one, the checkpoints are there."""
    create = RunDir.create

    def create_and_die(*arguments: Any) -> None:
        create(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "create", create_and_die)
    command = ["compare", "--resume", copied_run, "--total-timesteps", 96]
    assert run_here(monkeypatch, *command) == 130
    unfinished = RunDir(copied_run, COMPARISON).unfinished()
    assert len(unfinished) == 4
    assert all([*folder.glob("checkpoints/step-*")] for _, folder in unfinished)


def test_steps_are_raised_and_not_lowered(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run_here(monkeypatch, "compare", "--resume", copied_run, "--total-timesteps", 48) == 2
    assert "--total-timesteps may only" in capsys.readouterr().err
    fixed = trial_folder(copied_run, "fixed-3/seed-0")
    reference, earlier = files_of(fixed), trial_folder(copied_run, "pooled/seed-1")
    before = pd.read_csv(earlier / "curve.csv")
    command = ["compare", "--resume", copied_run, "--total-timesteps", 96, "--workers", 1]
    assert run_here(monkeypatch, *command) == 0
    assert capsys.readouterr().out.count("finished (") == 4  # Two learners from two seeds.
    study = parse_study((copied_run / "study.toml").read_text(), "")
    assert (study.total_timesteps, study.resumed_from_steps) == (96, (64,))
    (longer,) = {*copied_run.glob("jobs/*/pooled/seed-1-*")} - {earlier}
    rows = pd.read_csv(longer / "curve.csv")
    pd.testing.assert_frame_equal(
        rows.iloc[: len(before)].drop(columns="wall_seconds"), before.drop(columns="wall_seconds")
    )
    assert rows["step"].iloc[-1] == 96
    assert files_of(fixed) == reference


def test_a_changed_study_runs_only_what_changed(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An agent more, one that is called otherwise, and one with another option."""
    changed = TINY.replace('name = "pooled"', 'name = "two groups"').replace("0.5 }", "0.25 }")
    changed += '\n[[agents]]\nalgo = "full"\n'
    study = copied_run.parent / "tiny.toml"
    study.write_text(changed)
    arguments = ["compare", study, "--out", copied_run, "--workers", 1]
    assert run_here(monkeypatch, *arguments) == 0
    ran = re.findall(r"SpanControl-v0/(\S+): finished", capsys.readouterr().out)
    assert sorted(ran) == ["dqn/seed-0", "dqn/seed-1", "full/seed-0"]
    rows = pd.read_csv(copied_run / "evaluation.csv")
    assert {"two groups", "dqn", "full"} <= {*rows["agent"]}
    assert "pooled" not in {*rows["agent"]}
    # As it was before there is nothing to run.
    study.write_text(TINY)
    assert run_here(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "18 of 18" in printed
    assert printed.count("finished (") == 0


@pytest.mark.slow
def test_two_runners_in_one_folder(tmp_path: Path, finished_run: tuple[Path, str]):
    """Both end well, each trial is run once, and what they write is that of one alone."""
    (tmp_path / "tiny.toml").write_text(TINY)
    command = [str(Path(sys.executable).with_name("spangym")), "compare", "tiny.toml"]
    runners = [
        subprocess.Popen(
            [*command, "--workers", "1", "--out", "run", "--agent", "pooled", "--seeds", "1"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for runner in runners:
        _, errors = runner.communicate(timeout=240)
        assert (runner.returncode, errors) == (0, "")
    events = [*(tmp_path / "run").glob("jobs/*/*/*/events.out.*")]
    assert len(events) == 14
    one, other = (
        pd.read_csv(root / "evaluation.csv") for root in (tmp_path / "run", finished_run[0])
    )
    other = other.query("training_seed == 0 and agent != 'dqn'")
    pd.testing.assert_frame_equal(one, other.reset_index(drop=True), check_exact=True)


def test_quiet_prints_nothing(copied_run: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    assert run_here(monkeypatch, "compare", "--resume", copied_run, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


CUSTOM = """
class Mine:
    def choose_action(self, state):
        return 7
    def update(self, state, action, reward, next_state):
        pass

class Raises(Mine):
    def update(self, state, action, reward, next_state):
        raise ValueError("not today")

class Unmakeable(Mine):
    def __init__(self, **options):
        raise KeyError("no key")
"""

OWN_AGENTS = """
[[agents]]
algo = "own:Mine"

[[agents]]
algo = "own:Raises"

[[agents]]
algo = "own:Mine"
name = "null"

[[agents]]
algo = "own:Mine"
name = "$x_$[/] 1e3"
"""


def test_agents_from_the_working_folder_and_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Odd names are only names, and the folder is the default one."""
    (tmp_path / "tiny.toml").write_text(TINY.partition("[[agents]]")[0] + OWN_AGENTS)
    (tmp_path / "own.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    command = ["compare", "tiny.toml", "--seeds", 1, "--total-timesteps", 8, "--workers", 1]
    assert run_here(monkeypatch, *command) == 1
    printed = capsys.readouterr()
    assert re.search(r"^ +own:Mine +\d", printed.out, re.MULTILINE)
    assert "SpanControl-v0/own-Raises/seed-0: ValueError" in printed.err
    assert re.search(r"^ +own:Raises +failed", printed.out, re.MULTILINE)
    assert "$x_$[/] 1e3" in printed.out
    folder = tmp_path / "runs" / "tiny"
    # The three names of one agent are one trial.
    assert len([*folder.glob("jobs/*/*/seed-*")]) == 2 + 13
    summary = json.loads((folder / "summary.json").read_text())
    by_name = {each["group"]: each["return"] for each in summary["groups"]}
    assert by_name["own:Mine"] == by_name["fixed:7"]
    assert by_name["null"] == by_name["$x_$[/] 1e3"] == by_name["fixed:7"]
    assert "own:Raises" not in by_name
    assert list(summary["failed"]) == ["SpanControl-v0/own-Raises/seed-0"]
    assert "not today" in (folder / "report.html").read_text()


class TestSignals:
    def start(self, folder: Path) -> subprocess.Popen[str]:
        (folder / "tiny.toml").write_text(
            TINY.replace("total_timesteps = 64", "total_timesteps = 100_000")
        )
        command = [str(Path(sys.executable).with_name("spangym")), "compare", "tiny.toml"]
        return subprocess.Popen(
            [*command, "--agent", "pooled", "--workers", "1", "--out", "run"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="what is loaded is read from /proc")
    def test_interrupt_while_it_starts(self, tmp_path: Path):
        running = self.start(tmp_path)
        loaded = Path(f"/proc/{running.pid}/maps")
        deadline = time.monotonic() + 60
        while "libtorch" not in loaded.read_text():  # Of seconds of imports, one of the first.
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 130
        assert errors == "spangym: interrupted\n"

    def test_terminated_while_it_runs(self, tmp_path: Path):
        running = self.start(tmp_path)
        deadline = time.monotonic() + 60
        while not [*tmp_path.glob("run/jobs/*/pooled/seed-0-*/curve.csv")]:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.terminate()
        _, errors = running.communicate(timeout=30)
        assert running.returncode == 130
        assert errors.startswith("interrupted: 0 of 16 ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--agent", "refinr"], ["'refinr'", "did you mean 'refiner'"]),
        (["compare", "--agent", "nowhere:X"], ["no module 'nowhere'"]),
        (["compare", "--agent", "own:NoUpdate"], ["update(state, action, reward"]),
        (["compare", "--agent", "own:Unmakeable"], ["KeyError: 'no key'"]),
        (["compare", "--agent", "own:notaclass"], ["'notaclass'"]),
        (["compare", "--out", "/proc/run"], ["'/proc/run'", "cannot be written"]),
        (["compare", "--device", "cuda:9"], ["'cuda:9'", "it has: cpu"]),
        (["compare", "--seeds", "0"], ["'--seeds'", "in 1..10000"]),
        (["compare", "--total-timesteps", "many"], ["'--total-timesteps'", "valid integer"]),
        (["compare", "--stepz", "5"], ["no option", "--stepz"]),
        (["compare", "--total-timesteps", "16"], ["total_timesteps", "at least 256"]),
        (["compare", ""], ["study ''"]),
        (["compare", "quickstrat"], ["did you mean 'quickstart'"]),
        (["compare", "bad.toml"], ["bad.toml", "'total_timestepz'", "'total_timesteps'"]),
        (["compare", "--out", "full"], ["'full'", "not empty"]),
        (["compare", "--out", "file/run"], ["'file/run'", "not a directory"]),
        (["compare", "--resume", "full"], ["'full'", "not a run"]),
        (["compare", "--resume", "full", "--seeds", "2"], ["--resume", "--workers"]),
        (["compare", "--resume", "a b", "--dry-run"], ["'a b/study.toml' --out 'a b' --dry-run"]),
        (["curves", "full"], ["'full'", "not a run"]),
        (["curves", "nothing"], ["'nothing'", "not a run"]),
        (["curvs"], ["'curvs'", "did you mean `spangym curves`"]),
        (["curves"], ["missing argument", "'RUN'"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        CUSTOM + "notaclass = 3\nclass NoUpdate:\n    def choose_action(self, s): return 0\n"
    )
    (tmp_path / "bad.toml").write_text(TINY.replace("total_timesteps", "total_timestepz"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    before = files_of(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    assert run_here(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("spangym: ")
    assert printed.err.count("\n") == 1
    for word in words:
        assert word.lower() in printed.err.lower()
    assert files_of(tmp_path) == before


ONE_ROW = "step,return,qk_pairs,wall_seconds\n"
DQN = "dqn/seed-0"


@pytest.mark.parametrize(
    ("name", "content", "command", "words"),
    [
        ("study.toml", "name = ", "curves", "not TOML"),
        ("study.toml", "name = 3", "compare", "key"),
        ("manifest.json", "{", "compare", ""),
        ("manifest.json", "{}", "compare", "command, started"),
        (f"{DQN}/result.json", "{", "curves", ""),
        (f"{DQN}/result.json", "[]", "compare", "JSON object"),
        (f"{DQN}/result.json", "{}", "curves", "total_timesteps, wall_seconds"),
        (
            f"{DQN}/result.json",
            '{"total_timesteps": 96, "wall_seconds": 1.0, "regret": null, "full_qk_pairs": 1}',
            "compare",
            "96 steps",
        ),
        (f"{DQN}/curve.csv", f"{ONE_ROW}1,,3,4\n", "curves", "cut short"),
        (f"{DQN}/curve.csv", ONE_ROW, "curves", "0 rows"),
        (f"{DQN}/curve.csv", f"{ONE_ROW}1,2,3,4", "curves", "last row"),
        (f"{DQN}/curve.csv", "", "curves", ""),
        (
            f"{DQN}/evaluation.csv",
            "evaluation_seed,return,mean_span,qk_pairs,output_norm,actions\n2,x,3,4,5,6\n",
            "curves",
            "no number",
        ),
        (f"{DQN}/evaluation.csv", "a\n", "compare", "columns"),
        (f"{DQN}/evaluation.csv", None, "compare", "study's evaluation"),
    ],
)
def test_a_damaged_run_folder_is_named(
    copied_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | None,
    command: str,
    words: str,
):
    path = copied_run / name
    if path.parent != copied_run:
        path = trial_folder(copied_run, DQN) / path.name
    if content is None:  # The last row is lost.
        content = "\n".join(path.read_text().splitlines()[:-1]) + "\n"
    path.write_text(content)
    arguments = ["compare", "--resume"] if command == "compare" else ["curves"]
    assert run_here(monkeypatch, *arguments, copied_run) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(path) in printed
    assert words in printed


@pytest.mark.slow
def test_files_whose_names_are_not_utf_8_are_shown_escaped(tmp_path: Path):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"to be or not " * 400)
    kwargs = 'win_size = 16, dataset = "texts"'
    (tmp_path / "tiny.toml").write_text(TINY.replace("win_size = 16", kwargs))
    done = spangym(["compare", "tiny.toml", "--out", "run", "--workers", 1], tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    (splits,) = manifest["content_sha256"].values()
    assert [*splits["train"]] == [r"caf\xe9.txt"]
    assert r"caf\xe9.txt" in (tmp_path / "run" / "report.html").read_text("utf-8")
