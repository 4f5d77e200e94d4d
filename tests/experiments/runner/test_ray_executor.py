"""Trials on a real Ray cluster of several nodes on this machine, of which some die."""

import contextlib
import dataclasses
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from spangym.experiments.cli.running import make_executor
from spangym.experiments.runner import ray_executor
from spangym.experiments.runner.job import Event, Failed, Finished, Message, Progress, Started
from spangym.experiments.runner.job_files import is_locked, job_lock
from spangym.experiments.runner.ray_executor import RayExecutor
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.tables.build_tables import build_tables, tables_of
from spangym.experiments.trials.trial import Trial, make_trial
from spangym.utils.errors import UserError

MINE = """
import os
import signal
import time
from pathlib import Path
import torch
from spangym.agents import Refiner

class Waits(Refiner):
    "Waits in the middle of the training for a file, after its progress was reported."
    def __init__(self, gate, seed):
        super().__init__(seed=seed)
        self.gate = Path(gate)
        self.chosen = 0
    def choose_action(self, state):
        self.chosen += 1
        if self.chosen > 10 and not self.gate.exists():
            self.gate.with_suffix(".pid").write_text(str(os.getpid()))
            time.sleep(0.3)
            until = time.monotonic() + 60
            while self.chosen > 12 and not self.gate.exists() and time.monotonic() < until:
                time.sleep(0.01)
        return super().choose_action(state)

class Raises(Refiner):
    chosen = 0
    def choose_action(self, state):
        self.chosen += 1
        if self.chosen > 20:
            raise ArithmeticError("no such luck\\nsecond line")
        return super().choose_action(state)

class Changes(Refiner):
    "Changes its process for all jobs after it."
    def choose_action(self, state):
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        return super().choose_action(state)

class Dies(Refiner):
    def choose_action(self, state):
        os.kill(os.getpid(), signal.SIGKILL)
"""

NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head node without cores, and a node with one core."""
    # Paths of sockets have at most 107 bytes.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory("ray") as place:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # For leftovers of killed tasks, and a token that Ray would store in the home folder.
        patch.setenv("TMPDIR", place)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        # Not that of the runner, as on other machines.
        patch.setenv("SPANGYM_CACHE", f"{place}/cache")
        there = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
        there.add_node(num_cpus=1, **NODE)
        yield there
        there.shutdown()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def study(tiny: Study, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose agents are in the working folder, where tasks must find them, too."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    waits = StudyAgent("mine:Waits", name="waits", hyperparameters={"gate": str(gate)})
    others = (StudyAgent(f"mine:{name}", name=name) for name in ("Raises", "Dies", "Changes"))
    return normalize_study(dataclasses.replace(tiny, agents=(waits, tiny.agents[1], *others)))


def trial_of(study: Study, name: str, seed: int = 0) -> Trial:
    environment = study.environments[0]
    entry = next(each for each in study.agents_in(environment) if each.name == name)
    return make_trial(study, environment, entry, seed)


def ends_of(events: list[Event]) -> dict[str, Event]:
    return {each.job.job_id: each for each in events if isinstance(each, Finished | Failed)}


def notes_of(events: list[Event], trial: Trial) -> list[Message]:
    return [each for each in events if isinstance(each, Message) and each.job == trial]


def same_files(jobs: list[tuple[Trial, Path]], others: list[tuple[Trial, Path]]) -> None:
    for (trial, folder), (_, other) in zip(jobs, others, strict=True):
        for name in ("evaluation.csv", "action_counts.csv", "job.json"):
            assert (folder / name).read_bytes() == (other / name).read_bytes(), trial.job_id
        if trial.total_timesteps:
            one, two = (
                pd.read_csv(each / "curve.csv", dtype=str).drop(columns="wall_seconds")
                for each in (folder, other)
            )
            pd.testing.assert_frame_equal(one, two)
            assert len(list((folder / "checkpoints").iterdir())) == 1


def test_study_survives_the_death_of_a_node(
    study: Study, cluster: Cluster, gate: Path, tmp_path: Path
):
    trials = [trial_of(study, "waits", seed) for seed in (0, 1)]
    trials += [trial_of(study, name) for name in ("dqn", "random", "fixed:3")]
    jobs, others = ([(each, tmp_path / run / each.job_id) for each in trials] for run in "ab")
    changes = trial_of(study, "Changes")
    changed = (changes, tmp_path / "a" / changes.job_id)
    second = cluster.add_node(num_cpus=1, **NODE)
    events: list[Event] = []
    killed = False
    for event in RayExecutor(cluster.address, None, 0.0).run([*jobs[:2], changed, *jobs[2:]]):
        events.append(event)
        # Each takes one core: when both wait, both nodes are busy.
        under_way = {
            each.job.seed for each in events if isinstance(each, Progress) and each.done > 10
        }
        if len(under_way) == 2 and not killed:
            cluster.remove_node(second, allow_graceful=False)
            killed = True
        # Not earlier: a task survives its node for a moment, and might finish.
        if isinstance(event, Message):
            gate.touch()
        assert not isinstance(event, Failed), event.error
    assert sorted(each.job.job_id for each in events if isinstance(each, Started)) == sorted(
        each.job_id for each in (*trials, changes)
    )
    (noted,) = (each for each in events if isinstance(each, Message))
    assert "NodeDiedError" in noted.text
    after = events[events.index(noted) :]
    goes_on = next(each for each in after if isinstance(each, Progress) and each.job == noted.job)
    assert goes_on.done > 10
    for trial, folder in others:
        folder.mkdir(parents=True)
        trial.run(folder)
    same_files(jobs, others)


def test_tables_are_made_on_nodes_and_copied_to_nodes(
    tiny: Study, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache_of_nodes = Path(os.environ["SPANGYM_CACHE"]) / "tables"
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "cache"))
    (environment,) = tiny.environments
    kwargs = {**environment.kwargs, "num_actions": 2, "num_levels": 5, "backend": "table"}
    study = dataclasses.replace(
        tiny, environments=(dataclasses.replace(environment, kwargs=kwargs),)
    )
    trial, folder = trial_of(study, "dqn"), tmp_path / "a" / "dqn"
    executor = RayExecutor(cluster.address)
    (path,) = build_tables(tables_of([trial]), executor, Console(quiet=True), "")
    assert path.parent == tmp_path / "cache" / "tables"
    assert not (cache_of_nodes / path.name).exists()
    assert [*executor.run([(trial, folder)])][-1] == Finished(trial)
    assert files_in(cache_of_nodes / path.name) == files_in(path)
    other = tmp_path / "b" / "dqn"
    other.mkdir(parents=True)
    trial.run(other)
    same_files([(trial, folder)], [(trial, other)])


def files_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@pytest.mark.slow
def test_failed_jobs_and_jobs_of_another_runner(study: Study, cluster: Cluster, tmp_path: Path):
    names = ("random", "Raises", "waits", "dqn")
    jobs = [(trial_of(study, name), tmp_path / "a" / name) for name in names]
    (taken, at), (raises, broken), (changed, _), (free, at_free) = jobs
    at.parent.mkdir()
    lock = job_lock(at)
    lock.acquire()
    events: list[Event] = []
    for event in RayExecutor(cluster.address, 1).run(jobs):
        events.append(event)
        if isinstance(event, Failed) and event.job == raises:
            # Like a node with another version of the module.
            module = tmp_path / "mine.py"
            module.write_text(f"{MINE}# other\n")
        if event == Finished(free):
            assert not is_locked(at_free)
            assert any("another process" in each.text for each in notes_of(events, taken))
            at.mkdir()
            (at / "result.json").write_text("of the other")
            lock.release()
    ends = ends_of(events)
    assert ends[raises.job_id] == Failed(raises, "ArithmeticError: no such luck")
    assert "Traceback" in (broken / "error.txt").read_text()
    assert not (broken / "result.json").exists()
    refused = ends[changed.job_id]
    assert isinstance(refused, Failed)
    assert "must be equal" in refused.error
    assert ends[taken.job_id] == Finished(taken)
    assert (at / "result.json").read_text() == "of the other"
    assert not any(is_locked(folder) for _, folder in jobs)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_closing_ends_the_tasks_and_keeps_copied_checkpoints(
    study: Study, gate: Path, tmp_path: Path
):
    """On a cluster that the executor starts and stops."""
    trial, folder = trial_of(study, "waits"), tmp_path / "a"
    handler = signal.getsignal(signal.SIGTERM)
    running = RayExecutor(None, 1, 0.0).run([(trial, folder)])
    next(each for each in running if isinstance(each, Progress) and each.done > 10)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert is_locked(folder)
    running.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator, in fact)
    assert not ray.is_initialized()
    assert not is_locked(folder)
    process = int(gate.with_suffix(".pid").read_text())
    until = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(process, 0)
            time.sleep(0.05)
        raise AssertionError("the process still runs")
    gate.touch()
    steps: list[int] = []
    trial.run(folder, steps.append)
    assert steps[0] > 10
    whole = tmp_path / "b"
    whole.mkdir()
    trial.run(whole)
    same_files([(trial, folder)], [(trial, whole)])


@pytest.mark.slow
def test_trial_whose_process_dies_is_retried_three_times(
    study: Study, cluster: Cluster, tmp_path: Path
):
    trial, folder = trial_of(study, "Dies"), tmp_path / "a"
    events = list(RayExecutor(cluster.address).run([(trial, folder)]))
    assert len(notes_of(events, trial)) == 3
    last = events[-1]
    assert isinstance(last, Failed)
    assert "died 4 times" in last.error
    assert "WorkerCrashedError" in last.error
    assert last.error in (folder / "error.txt").read_text()
    assert sum(isinstance(each, Started) for each in events) == 1


def test_cuda_study_needs_a_gpu(study: Study, cluster: Cluster, tmp_path: Path):
    trial = trial_of(study, "random")
    kwargs = {**trial.environment.kwargs, "device": "cuda"}
    environment = dataclasses.replace(trial.environment, kwargs=kwargs)
    jobs = [(dataclasses.replace(trial, environment=environment), tmp_path / "a")]
    with pytest.raises(UserError, match=r"CUDA.*no node.*GPU"):
        list(RayExecutor(cluster.address).run(jobs))
    assert not ray.is_initialized()


def test_other_version_of_ray_raises(
    study: Study, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ray, "__version__", "1.0")
    with pytest.raises(UserError, match="Version mismatch") as raised:
        list(RayExecutor(cluster.address).run([(trial_of(study, "random"), tmp_path / "a")]))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["nonsense", "nonsense:", "127.0.0.1:0", "ray://127.0.0.1:1"])
def test_address_without_a_cluster_raises(address: str):
    with pytest.raises(UserError, match=r"no Ray cluster .* HOST:PORT"):
        make_executor("ray", address, None, 30.0)


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, ray_executor.__name__)
    with pytest.raises(UserError, match=r"pip install 'spangym\[cluster\]'"):
        make_executor("ray", None, None, 30.0)


def test_no_jobs_start_no_cluster():
    assert list(RayExecutor().run([])) == []
    assert not ray.is_initialized()
