"""Trials in real processes: what fails is named, the others finish."""

import dataclasses
import importlib
import multiprocessing
import signal
from itertools import zip_longest
from pathlib import Path

import pandas as pd
import pytest

from spangym.experiments.runner.job import (
    Failed,
    Finished,
    Message,
    PlacedJob,
    Progress,
    Started,
)
from spangym.experiments.runner.job_files import RESULT_FILE, is_locked, job_lock
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.trials.trial import Trial, make_trial, trials_of

BROKEN = """
class Raises:
    def choose_action(self, state):
        raise ArithmeticError("no such luck\\nsecond line")
    def update(self, state, action, reward, next_state):
        pass

class Dies(Raises):
    def choose_action(self, state):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""

GLOBAL = """
import random
import numpy as np
import torch

class Draws:
    def choose_action(self, state):
        return (random.randrange(10) + np.random.randint(10) + int(torch.randint(10, ()))) % 10
    def update(self, state, action, reward, next_state):
        pass
"""

COUNTS = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Counts:
    "Counts on from its checkpoint; stops at a word until that has been taken back."
    name: str
    total: int = 5
    seed: int = 0
    label: str = "counts"
    device: str = "cpu"

    def config_for_hash(self, hashes):
        return {"total": self.total}

    def run(self, folder, progress, note, checkpoint_seconds):
        (folder / "checkpoints").mkdir(exist_ok=True)
        begin = max([int(path.name[5:]) for path in folder.glob("checkpoints/step-*")], default=0)
        note(f"from {begin}, checkpoints each {checkpoint_seconds} s")
        for number in range(begin + 1, self.total + 1):
            progress(number)
            (folder / "checkpoints" / f"step-{number}").touch()
            if number == 3 and folder.with_name("stop").exists():
                raise ArithmeticError("three")
        (folder / "result.json").write_text("{}")
"""


@pytest.fixture
def jobs(tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Trial, Path]]:
    (tmp_path / "broken_refiners.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    entries = tuple(StudyAgent(f"broken_refiners:{name}") for name in ("Raises", "Dies"))
    study = normalize_study(
        dataclasses.replace(tiny, agents=(*entries, tiny.agents[0]), seeds=(0,))
    )
    return [(trial, tmp_path / trial.agent.slug) for trial in trials_of(study)[:3]]


def test_a_failed_trial_is_named_and_the_others_finish(jobs: list[tuple[Trial, Path]]):
    labels = {trial.job_id: trial.agent.name for trial, _ in jobs}
    events = list(LocalExecutor(1).run(jobs))
    ends = {
        labels[event.job.job_id]: event for event in events if isinstance(event, Finished | Failed)
    }
    raises, dies = ends["broken_refiners:Raises"], ends["broken_refiners:Dies"]
    assert isinstance(raises, Failed)
    assert raises.error == "ArithmeticError: no such luck"
    assert "Traceback" in (jobs[0][1] / "error.txt").read_text()
    assert isinstance(dies, Failed)
    assert f"killed by signal {int(signal.SIGKILL)}" in dies.error
    assert isinstance(ends["pooled"], Finished)
    assert [labels[event.job.job_id] for event in events if isinstance(event, Started)] == list(
        ends
    )
    assert any(isinstance(event, Progress) for event in events)
    assert not any((folder / "result.json").exists() for _, folder in jobs[:2])


def test_a_refiner_that_draws_from_the_global_generators_is_repeatable(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "global_refiner.py").write_text(GLOBAL)
    monkeypatch.syspath_prepend(tmp_path)
    entry = StudyAgent("global_refiner:Draws", name="draws")
    study = normalize_study(dataclasses.replace(tiny, agents=(entry,)))
    curves = []
    # Behind another trial of its process, and alone.
    for seeds in ([0, 1], [1]):
        trials = [make_trial(study, study.environments[0], study.agents[0], seed) for seed in seeds]
        folders = [tmp_path / f"{len(seeds)}-{seed}" for seed in seeds]
        events = list(LocalExecutor(1).run(list(zip(trials, folders, strict=True))))
        assert not any(isinstance(event, Failed) for event in events)
        curves.append(pd.read_csv(folders[-1] / "curve.csv").drop(columns="wall_seconds"))
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def test_closing_ends_the_processes(jobs: list[tuple[Trial, Path]]):
    running = LocalExecutor(1).run(jobs[2:])
    assert isinstance(next(running), Started)
    assert len(multiprocessing.active_children()) == 1
    running.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator, in fact)
    assert multiprocessing.active_children() == []


def test_a_trial_that_another_runner_is_at_comes_last_and_is_not_run_twice(
    jobs: list[tuple[Trial, Path]],
):
    """The other runner holds its lock, and finishes it while we wait."""
    taken, free = jobs[2], (jobs[2][0], jobs[2][1].with_name("free"))
    lock = job_lock(taken[1])
    lock.acquire()
    assert is_locked(taken[1])
    finished = 0
    for event in LocalExecutor(1).run([taken, free]):
        finished += isinstance(event, Finished)
        if isinstance(event, Message):
            assert "another process runs it" in event.text
            assert (free[1] / "result.json").exists()
            taken[1].mkdir()
            (taken[1] / "result.json").write_text("of the other")
            lock.release()
    assert finished == 2
    assert (taken[1] / "result.json").read_text() == "of the other"
    assert not is_locked(taken[1])


def test_two_runners_share_the_work(jobs: list[tuple[Trial, Path]], tmp_path: Path):
    """At once, on the same folders: each trial is run by one of them."""
    study_jobs = [(jobs[2][0], tmp_path / f"job-{number}") for number in range(4)]
    one, other = (LocalExecutor(1).run(study_jobs) for _ in range(2))
    events = [event for pair in zip_longest(one, other) for event in pair]
    assert sum(isinstance(event, Finished) for event in events) == 8
    assert all(len(list(folder.glob("events.out.*"))) == 1 for _, folder in study_jobs)


def test_what_runs_need_not_be_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It finishes; or it fails, its error is written down, and it goes on from its checkpoint."""
    (tmp_path / "counting.py").write_text(COUNTS)
    monkeypatch.syspath_prepend(tmp_path)
    counts = importlib.import_module("counting").Counts
    (tmp_path / "failing").mkdir()
    stop = tmp_path / "failing" / "stop"
    stop.touch()
    good, bad = counts("good"), counts("bad")
    placed: list[PlacedJob] = [(good, tmp_path / "good"), (bad, stop.with_name("bad"))]
    events = list(LocalExecutor(1, 7.0).run(placed))
    assert events[:3] == [
        Started(good),
        Message(good, "from 0, checkpoints each 7.0 s"),
        Progress(good, 1),
    ]
    assert Finished(good) in events
    assert events[-1] == Failed(bad, "ArithmeticError: three")
    assert "ArithmeticError: three" in (placed[1][1] / "error.txt").read_text()
    assert not (placed[1][1] / RESULT_FILE).exists()
    stop.unlink()
    again = list(LocalExecutor(1, 7.0).run(placed))
    assert again[:3] == [Started(good), Finished(good), Started(bad)]
    assert again[3] == Message(bad, "from 3, checkpoints each 7.0 s")
    assert again[-1] == Finished(bad)
    assert not (placed[1][1] / "error.txt").exists()
    assert (placed[1][1] / RESULT_FILE).exists()
