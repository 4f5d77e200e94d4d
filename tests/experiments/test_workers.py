"""Trials in real processes: what fails is named, the others finish."""

import dataclasses
import multiprocessing
import signal
from pathlib import Path

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


def test_closing_ends_the_processes(trials: tuple[Study, list[tuple[Trial, Path]]]):
    study, pairs = trials
    running = run_trials(study, pairs[2:], jobs=1)
    assert isinstance(next(running), Started)
    assert len(multiprocessing.active_children()) == 1
    running.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator, in fact)
    assert multiprocessing.active_children() == []
