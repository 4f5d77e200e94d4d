"""Superseded jobs: their folders are those that a changed study no longer has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from spangym.experiments.runner.job_files import RESULT_FILE, job_lock
from spangym.experiments.runner.run_dir import MANIFEST_KEYS, RunDir
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.tensorboard import TrialLogger

from ..cli.conftest import files_of

MANIFEST: dict[str, Any] = dict.fromkeys(MANIFEST_KEYS)


def with_gamma(study: Study, gamma: float) -> Study:
    """The study with another hyperparameter of dqn."""
    agents = [
        replace(each, hyperparameters={"gamma": gamma}) if each.algo == "dqn" else each
        for each in study.agents
    ]
    return replace(study, agents=tuple(agents))


@pytest.fixture
def run(tiny: Study, tmp_path: Path) -> ComparisonDir:
    """A run of two trials of dqn and one of another agent, with files in place of results."""
    run = RunDir(tmp_path / "my run", COMPARISON)
    for trial in run.create(tiny, MANIFEST):
        if trial.agent.name == "dqn" or trial.job_id.endswith("pooled/seed-0"):
            folder = run.folder_of(trial)
            logger = TrialLogger(folder)
            logger.open(0)
            logger.log_scalars("training", 1, {"return": 1.0})
            logger.close()
            (folder / RESULT_FILE).write_text("{}")
    return run


def shown_by_tensorboard(run: ComparisonDir) -> set[str]:
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(run.path))
    multiplexer.Reload()
    return {each.rpartition("-")[0] for each in multiplexer.Runs()}


def stored_files(run: ComparisonDir) -> dict[str, bytes]:
    files = files_of(run.path / "jobs")
    return {name: content for name, content in files.items() if not name.endswith(".lock")}


ALL = {f"jobs/SpanControl-v0/{name}" for name in ("dqn/seed-0", "dqn/seed-1", "pooled/seed-0")}


def test_superseded_jobs_are_hidden_until_the_study_is_changed_back(
    run: ComparisonDir, tiny: Study
):
    before = stored_files(run)
    assert run.superseded() == []
    assert shown_by_tensorboard(run) == ALL
    run.create(with_gamma(tiny, 0.25), MANIFEST)
    assert [each.name[:6] for each in run.superseded()] == ["seed-0", "seed-1"]
    assert all(each.parent.name == "dqn" for each in run.superseded())
    assert shown_by_tensorboard(run) == {"jobs/SpanControl-v0/pooled/seed-0"}
    assert len(run.finished()) == 1
    run.create(tiny, MANIFEST)
    assert run.superseded() == []
    assert len(run.finished()) == 3
    assert stored_files(run) == before


def test_events_of_a_running_job_keep_their_names(run: ComparisonDir, tiny: Study):
    """They are hidden when the next run in the folder starts or ends."""
    running = next(each for each in run.jobs() if each.job_id.endswith("dqn/seed-0"))
    with job_lock(run.folder_of(running)):
        run.create(with_gamma(tiny, 0.25), MANIFEST)
        assert len(run.superseded()) == 2
        assert shown_by_tensorboard(run) == ALL - {"jobs/SpanControl-v0/dqn/seed-1"}
    run.hide_superseded()
    assert shown_by_tensorboard(run) == {"jobs/SpanControl-v0/pooled/seed-0"}


def test_other_folders_are_not_jobs(run: ComparisonDir):
    (run.path / "jobs" / "SpanControl-v0" / "dqn" / "notes").mkdir()
    (run.path / "jobs" / "SpanControl-v0" / "dqn" / ".1-seed-3-0123456789abcdef").mkdir()
    (run.path / "jobs" / "SpanControl-v0" / "dqn" / "seed-4-0123456789abcdef").write_text("")
    assert run.superseded() == []


def test_a_name_in_a_command_is_no_option():
    run = RunDir(Path("-x"), COMPARISON)
    assert run.resume_command == "spangym compare --resume ./-x"
