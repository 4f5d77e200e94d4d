"""``--dry-run``: the jobs of a run and an estimate of their time."""

import json
from pathlib import Path

import pytest

from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.run_plan import describe_time, plan_table
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.utils.errors import UserError

from ..conftest import TINY, run_here


def test_a_plan_says_how_far_each_job_is(tiny: Study, tmp_path: Path):
    run = RunDir(tmp_path / "run", COMPARISON)
    first = run.plan(tiny)
    assert not run.path.exists()
    assert {each.state for each in first} == {"run"}
    jobs = run.create(tiny, dict.fromkeys(("command", "versions", "machine"), ""))
    for job, seconds in zip(jobs[:2], (10, 30), strict=True):
        run.folder_of(job).mkdir(parents=True)
        (run.folder_of(job) / "result.json").write_text(json.dumps({"wall_seconds": seconds}))
    (run.folder_of(jobs[2]) / "checkpoints/step-8").mkdir(parents=True)
    longer = run.plan(tiny)
    states = ["finished", "finished", "resume", *["run"] * (len(jobs) - 3)]
    assert [each.state for each in longer] == states
    assert [each.seconds for each in longer[:3]] == [10, 30, None]
    table = plan_table(longer)
    assert table.row_count == 2 + 3 + 1
    assert [*table.columns[0].cells] == ["SpanControl-v0"] * 6
    assert [*table.columns[2].cells] == ["0, 1", "0, 1", "0", "0", "0, 1", "0"]
    assert "fixed:* (10)" in [*table.columns[1].cells]
    assert [*table.columns[-1].cells] == ["", "1", "1", "1", "2", "10"]


def test_times_come_from_finished_jobs_of_other_seeds(tiny: Study, tmp_path: Path):
    run = RunDir(tmp_path / "run", COMPARISON)
    jobs = run.create(tiny, {})
    (folder := run.folder_of(jobs[0])).mkdir(parents=True)
    (folder / "result.json").write_text('{"wall_seconds": 7200}')
    plan = run.plan(tiny)
    assert "2.0 h" in describe_time(plan[:2], 4)
    assert "about" in describe_time(plan[:2], 4)
    assert "not known" in describe_time(plan, 4)
    least = describe_time(plan[1:], 2, lambda jobs: [60.0 * 60] * len(jobs))
    # Without a finished sibling in the plan, all are bounded: 15 jobs with two workers.
    assert f"at least {(len(plan) - 1) / 2:.1f} h with 2 workers" in least
    assert describe_time(plan[:1], 2) == "nothing is left to run"


def test_dry_run_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)
    command = ["compare", "tiny.toml", "--dry-run", "--seeds", "3,5", "--set", "dqn.gamma=0.25"]
    assert run_here(monkeypatch, *command) == 0
    printed = capsys.readouterr().out
    assert "3, 5" in printed
    assert "0 finished, 0 to resume, 18 to run" in printed
    assert "time: at least" in printed
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.toml"]
    for wrong in (["--set", "dqn.gama=1"], ["--out", "tiny.toml"], ["--resume", "runs/tiny"]):
        assert run_here(monkeypatch, *command, *wrong) == 2
        assert capsys.readouterr().out == ""


def test_a_plan_refuses_what_create_refuses(tiny: Study, tmp_path: Path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(UserError, match="not a run folder"):
        RunDir(tmp_path, COMPARISON).plan(tiny)
