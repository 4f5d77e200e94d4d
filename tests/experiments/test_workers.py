"""Trials in real processes: what fails is named, the others finish."""

import dataclasses
import multiprocessing
import signal
from pathlib import Path

import pandas as pd
import pytest

from spangym.experiments.studies import AgentEntry, Study, Trial
from spangym.experiments.study_reading import resolve
from spangym.experiments.workers import Failed, Finished, Progress, Started, run_trials

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


@pytest.fixture
def trials(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Study, list[tuple[Trial, Path]]]:
    (tmp_path / "broken_refiners.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    entries = tuple(AgentEntry(f"broken_refiners:{name}") for name in ("Raises", "Dies"))
    study = resolve(dataclasses.replace(tiny, agents=(*entries, tiny.agents[0])))
    chosen = [Trial(entry, 0) for entry in study.agents]
    folders = [tmp_path / trial.entry.slug for trial in chosen]
    for folder in folders:
        folder.mkdir()
    return study, list(zip(chosen, folders, strict=True))


def test_a_failed_trial_is_named_and_the_others_finish(
    trials: tuple[Study, list[tuple[Trial, Path]]],
):
    study, pairs = trials
    events = list(run_trials(study, pairs, jobs=1))
    ends = {
        event.trial.entry.label: event for event in events if isinstance(event, Finished | Failed)
    }
    raises, dies = ends["broken_refiners:Raises"], ends["broken_refiners:Dies"]
    assert isinstance(raises, Failed)
    assert raises.error == "ArithmeticError: no such luck"
    assert "Traceback" in (pairs[0][1] / "error.txt").read_text()
    assert isinstance(dies, Failed)
    assert f"killed by signal {int(signal.SIGKILL)}" in dies.error
    assert isinstance(ends["pooled"], Finished)
    assert [event.trial.entry.label for event in events if isinstance(event, Started)] == list(ends)
    assert any(isinstance(event, Progress) for event in events)
    assert not any((folder / "result.json").exists() for _, folder in pairs[:2])


def test_a_refiner_that_draws_from_the_global_generators_is_repeatable(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "global_refiner.py").write_text(GLOBAL)
    monkeypatch.syspath_prepend(tmp_path)
    entry = AgentEntry("global_refiner:Draws", label="draws")
    study = resolve(dataclasses.replace(tiny, agents=(entry,)))
    curves = []
    # Behind another trial of its process, and alone.
    for seeds in ([0, 1], [1]):
        folders = [tmp_path / f"{len(seeds)}-{seed}" for seed in seeds]
        for folder in folders:
            folder.mkdir()
        trials = [Trial(study.agents[0], seed) for seed in seeds]
        events = list(run_trials(study, list(zip(trials, folders, strict=True)), jobs=1))
        assert not any(isinstance(event, Failed) for event in events)
        curves.append(pd.read_csv(folders[-1] / "curve.csv").drop(columns="wall_seconds"))
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def test_closing_ends_the_processes(trials: tuple[Study, list[tuple[Trial, Path]]]):
    study, pairs = trials
    running = run_trials(study, pairs[2:], jobs=1)
    assert isinstance(next(running), Started)
    assert len(multiprocessing.active_children()) == 1
    running.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator, in fact)
    assert multiprocessing.active_children() == []
