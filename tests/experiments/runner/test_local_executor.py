"""Jobs in real processes: failed ones are reported, the others finish, none runs twice."""

import asyncio
import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spangym.experiments.runner.job import Failed, Finished, Message, PlacedJob, Progress, Started
from spangym.experiments.runner.job_files import RESULT_FILE, is_locked, job_lock
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.run_job import run_job
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.trials.trial import make_trial, trials_of

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
    "Counts on from its checkpoint; fails at 3 as long as there is a file named stop."
    job_id: str
    total: int = 5
    seed: int = 0
    name: str = "counts"
    device: str = "cpu"
    has_user_code: bool = False

    def config_for_hash(self, hashes):
        return {"total": self.total}

    def run(self, folder, progress, log, checkpoint_seconds):
        (folder / "checkpoints").mkdir(exist_ok=True)
        first = max([int(path.name[5:]) for path in folder.glob("checkpoints/step-*")], default=0)
        log(f"from {first}, checkpoints each {checkpoint_seconds} s")
        with (folder.parent / "runs.txt").open("a") as file:
            print(self.job_id, file=file)
        for number in range(first + 1, self.total + 1):
            progress(number)
            (folder / "checkpoints" / f"step-{number}").touch()
            if number == 3 and folder.with_name("stop").exists():
                raise ArithmeticError("three")
        (folder / "result.json").write_text("{}")
"""


ACTS = """
import json, os, random, signal, subprocess, sys, warnings
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import torch

@dataclass(frozen=True)
class Acts:
    job_id: str
    code: str
    has_user_code: bool = False
    total: int = 1
    seed: int = 0
    name: str = "acts"
    device: str = "cpu"

    def config_for_hash(self, hashes):
        return {}

    def run(self, folder, progress, log, checkpoint_seconds):
        exec(self.code, globals(), {"folder": folder})
        (folder / "result.json").write_text("{}")
"""

CHANGES_EVERYTHING = """
(folder / "pid").write_text(str(os.getpid()))
os.chdir("/")
os.environ["SPANGYM_TEST"] = "changed"
sys.path.insert(0, "/nowhere")
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)
np.seterr(all="raise")
np.zeros = np.ones
warnings.simplefilter("error")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdout = None
"""

READS_EVERYTHING = """
state = {
    "pid": os.getpid(),
    "folder": os.getcwd(),
    "environment": os.environ.get("SPANGYM_TEST"),
    "path": sys.path,
    "dtype": str(torch.get_default_dtype()),
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "errors": np.geterr(),
    "zero": float(np.zeros(1)[0]),
    "filters": len(warnings.filters),
    "signal": str(signal.getsignal(signal.SIGTERM)),
    "random": [random.random(), np.random.rand(), float(torch.rand(()))],
    "stdout": sys.stdout is None,
    "hash": hash("text"),
}
(folder / "state.json").write_text(json.dumps(state))
"""

DIES_WITH_A_CHILD = """
child = os.fork()
if not child:
    import time
    time.sleep(600)
(folder / "pid").write_text(str(child))
os._exit(7)
"""

FORKS = """
if not os.fork():
    sys.exit()
os.wait()
"""


@pytest.fixture
def acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes jobs that execute code."""
    (tmp_path / "acting.py").write_text(ACTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acting", raising=False)
    return importlib.import_module("acting").Acts


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes jobs that are no trials."""
    (tmp_path / "counting.py").write_text(COUNTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    return importlib.import_module("counting").Counts


def test_failed_trials_are_reported_and_the_others_finish(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "broken_refiners.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    agents = tuple(StudyAgent(f"broken_refiners:{name}") for name in ("Raises", "Dies"))
    agents = (*agents, tiny.agents[0])
    study = normalize_study(dataclasses.replace(tiny, agents=agents, seeds=(0,)))
    jobs = [(trial, tmp_path / trial.agent.slug) for trial in trials_of(study)[:3]]
    events = list(LocalExecutor(1).run(jobs))
    ends = {
        event.job.job_id.split("/")[1]: event
        for event in events
        if isinstance(event, Finished | Failed)
    }
    assert [*ends] == ["broken_refiners-Raises", "broken_refiners-Dies", "pooled"]
    raises, dies, pooled = ends.values()
    assert isinstance(raises, Failed)
    assert raises.error == "ArithmeticError: no such luck"
    assert "Traceback" in (jobs[0][1] / "error.txt").read_text()
    assert isinstance(dies, Failed)
    assert f"signal {int(signal.SIGKILL)}" in dies.error
    assert isinstance(pooled, Finished)
    assert sum(isinstance(event, Started) for event in events) == 3
    assert any(isinstance(event, Progress) for event in events)
    assert not any((folder / RESULT_FILE).exists() for _, folder in jobs[:2])


def test_agent_that_draws_from_the_global_generators_is_repeatable(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After another trial in the same process, and alone."""
    (tmp_path / "global_refiner.py").write_text(GLOBAL)
    monkeypatch.syspath_prepend(tmp_path)
    agent = StudyAgent("global_refiner:Draws", name="draws")
    study = normalize_study(dataclasses.replace(tiny, agents=(agent,)))
    curves = []
    for number, seed in enumerate((1, 0, 1)):
        trial = make_trial(study, study.environments[0], study.agents[0], seed)
        event = run_job(trial, tmp_path / str(number), lambda _: None, 30.0)
        assert event == Finished(trial)
        rows = pd.read_csv(tmp_path / str(number) / "curve.csv")
        curves.append(rows.drop(columns="wall_seconds"))
    pd.testing.assert_frame_equal(curves[0], curves[2], check_exact=True)
    assert not curves[0].equals(curves[1])


def test_closing_ends_the_processes(counts: Callable[..., Any], tmp_path: Path):
    running = LocalExecutor(1).run([(counts("one"), tmp_path / "one")])
    assert isinstance(next(running), Started)
    assert len(multiprocessing.active_children()) == 1
    running.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator, in fact)
    assert multiprocessing.active_children() == []


def test_job_of_another_runner_comes_last_and_is_not_run_twice(
    counts: Callable[..., Any], tmp_path: Path
):
    """The other runner holds its lock, and finishes it meanwhile."""
    taken, free = tmp_path / "taken", tmp_path / "free"
    lock = job_lock(taken)
    lock.acquire()
    assert is_locked(taken)
    finished = 0
    for event in LocalExecutor(1).run([(counts("taken"), taken), (counts("free"), free)]):
        finished += isinstance(event, Finished)
        if isinstance(event, Message) and "another process" in event.text:
            assert (free / RESULT_FILE).exists()
            taken.mkdir()
            (taken / RESULT_FILE).write_text("of the other")
            lock.release()
    assert finished == 2
    assert (taken / RESULT_FILE).read_text() == "of the other"
    assert not is_locked(taken)


def test_two_runners_share_the_jobs(counts: Callable[..., Any], tmp_path: Path):
    """At the same time and in the same folders."""
    jobs = [(counts(f"job-{number}"), tmp_path / f"job-{number}") for number in range(4)]
    one, other = (LocalExecutor(1).run(jobs) for _ in range(2))
    events = [event for pair in zip_longest(one, other) for event in pair]
    assert sum(isinstance(event, Finished) for event in events) == 8
    ran = (tmp_path / "runs.txt").read_text().splitlines()
    assert sorted(ran) == [job.job_id for job, _ in jobs]


def test_failed_job_is_resumed_from_its_checkpoint(counts: Callable[..., Any], tmp_path: Path):
    good, bad = counts("good"), counts("bad")
    stop, folder = tmp_path / "failing" / "stop", tmp_path / "failing" / "bad"
    stop.parent.mkdir()
    stop.touch()
    jobs: list[PlacedJob] = [(good, tmp_path / "good"), (bad, folder)]
    events = list(LocalExecutor(1, 7.0).run(jobs))
    assert events[:3] == [
        Started(good),
        Message(good, "from 0, checkpoints each 7.0 s"),
        Progress(good, 1),
    ]
    assert Finished(good) in events
    assert events[-1] == Failed(bad, "ArithmeticError: three")
    assert "ArithmeticError: three" in (folder / "error.txt").read_text()
    assert not (folder / RESULT_FILE).exists()
    stop.unlink()
    again = list(LocalExecutor(1, 7.0).run(jobs))
    assert again[:3] == [Started(good), Finished(good), Started(bad)]
    assert again[3] == Message(bad, "from 3, checkpoints each 7.0 s")
    assert again[-1] == Finished(bad)
    assert not (folder / "error.txt").exists()
    assert (folder / RESULT_FILE).exists()


def test_a_users_code_changes_nothing_for_other_jobs(
    acts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In one worker: two jobs before the user's, and two after it, in relative folders."""
    monkeypatch.chdir(tmp_path)
    codes = [READS_EVERYTHING, READS_EVERYTHING, CHANGES_EVERYTHING, READS_EVERYTHING]
    jobs: list[PlacedJob] = [
        (acts(f"job-{number}", code, has_user_code=code == CHANGES_EVERYTHING), Path(f"{number}"))
        for number, code in enumerate(codes)
    ]
    events = list(LocalExecutor(1).run(jobs))
    assert sum(isinstance(event, Finished) for event in events) == len(jobs)
    states = [json.loads((tmp_path / each / "state.json").read_text()) for each in "013"]
    pids = [state.pop("pid") for state in states]
    own = int((tmp_path / "2" / "pid").read_text())
    assert pids[0] == pids[1]
    assert len({*pids, own}) == 3
    assert states[0] == states[1] == states[2]
    assert states[0]["folder"] == str(tmp_path)


def test_death_of_a_process_whose_child_lives(acts: Callable[..., Any], tmp_path: Path):
    """The child holds the pipe and the lock of the job; it is killed."""
    job, folder = acts("dies", DIES_WITH_A_CHILD, has_user_code=True), tmp_path / "dies"
    start_time = time.monotonic()
    *_, end = LocalExecutor(1).run([(job, folder)])
    assert time.monotonic() - start_time < 60
    assert isinstance(end, Failed)
    assert "exit code 7" in end.error
    assert end.error in (folder / "error.txt").read_text("utf-8")
    until = time.monotonic() + 30
    while is_locked(folder):
        assert time.monotonic() < until, "the child runs on"
        time.sleep(0.05)


def test_a_forked_process_is_not_the_job(acts: Callable[..., Any], tmp_path: Path):
    job, folder = acts("forks", FORKS), tmp_path / "forks"
    events: list[Any] = []
    ended = os.fork()
    if not ended:
        # Not in the test's own process: if this fails, the forked process is another pytest.
        os._exit(run_job(job, folder, events.append, 30.0) != Finished(job))
    assert os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1]) == 0
    assert (folder / RESULT_FILE).exists()
    assert not (folder / "error.txt").exists()


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Unprintable(), "Unprintable: its message cannot be shown"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError("late"), "CancelledError: late"),
        (GeneratorExit(), "GeneratorExit"),
        (SystemExit("enough"), "SystemExit: enough"),
        (ValueError("caf\udce9 \ud800"), r"ValueError: caf\xe9 \ud800"),
        (ValueError("\x1b[31m\u202e"), r"ValueError: \x1b[31m\u202e"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ExceptionGroup("many", [Unprintable()]), "ExceptionGroup: many (1 sub-exception)"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_error_is_stored_with_its_type(
    acts: Callable[..., Any], tmp_path: Path, error: BaseException, line: str
):
    module = sys.modules["acting"]
    module.error = error  # pyright: ignore[reportAttributeAccessIssue]
    job, folder = acts("raises", "raise error"), tmp_path / "raises"
    assert run_job(job, folder, lambda _: None, 30.0) == Failed(job, line)
    stored = (folder / "error.txt").read_bytes().decode("utf-8").splitlines()
    assert stored[0].strip().endswith("Traceback (most recent call last):")
    assert stored[-1] == line
    assert not is_locked(folder)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_job(
    acts: Callable[..., Any], tmp_path: Path
):
    (tmp_path / "file").touch()
    job = acts("nowhere", "")
    event = run_job(job, tmp_path / "file" / "job", lambda _: None, 30.0)
    assert isinstance(event, Failed)
    assert "FileExistsError" in event.error or "NotADirectoryError" in event.error


SCRIPT = """
import sys
from pathlib import Path
from counts_of_script import Counts
from spangym.experiments.runner.local_executor import LocalExecutor
print("script")
*_, last = LocalExecutor(1).run([(Counts("a"), Path("a"))])
print(type(last).__name__)
"""


def test_a_script_needs_no_main_guard(tmp_path: Path):
    """A new process does not run the script that started it again."""
    (tmp_path / "counts_of_script.py").write_text(COUNTS)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["script", "Finished"], done.stderr


def test_in_a_with_statement_processes_serve_the_next_call(
    acts: Callable[..., Any], tmp_path: Path
):
    code = '(folder / "pid").write_text(str(os.getpid()))'
    codes = {"a": code, "b": code, "user": code, "dies": "os._exit(3)", "c": code}
    with LocalExecutor(1) as executor:
        for name, each in codes.items():
            job = acts(name, each, has_user_code=name == "user")
            *_, last = executor.run([(job, tmp_path / name)])
            assert isinstance(last, Failed if name == "dies" else Finished)
    pids = {name: int((tmp_path / name / "pid").read_text()) for name in codes if name != "dies"}
    assert pids["a"] == pids["b"]
    assert len({*pids.values()}) == 3
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
