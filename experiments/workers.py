"""Runs trials in processes of their own, one thread each, one trial at a time in a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from stable_baselines3.common.utils import set_random_seed

from .studies import Study, Trial
from .trial import CHECKPOINT_SECONDS, run_trial

_SECONDS_BETWEEN_REPORTS = 0.2


@dataclass(frozen=True)
class Started:
    """A trial has begun."""

    trial: Trial


@dataclass(frozen=True)
class Progress:
    """A trial has taken so many of its steps."""

    trial: Trial
    steps: int


@dataclass(frozen=True)
class Noted:
    """Something that the user should know of a trial, in a line."""

    trial: Trial
    text: str


@dataclass(frozen=True)
class Finished:
    """A trial is complete."""

    trial: Trial


@dataclass(frozen=True)
class Failed:
    """A trial has ended by an error, said in a line."""

    trial: Trial
    error: str


Event = Started | Progress | Noted | Finished | Failed


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    trial: Trial | None = None


def run_trials(
    study: Study,
    trials: Sequence[tuple[Trial, Path]],
    jobs: int,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Iterator[Event]:
    """Run trials side by side; yields what happens as it happens.

    A trial that fails leaves ``error.txt`` in its folder and does not stop the others. When the
    iterator is closed, by an interrupt say, the processes are ended where they stand.

    Args:
        study: What is compared.
        trials: Trials, each with a folder of its own, empty or as an interrupted process left it.
        jobs: Most processes at a time.
        checkpoint_seconds: Least time between two checkpoints of a training.

    Yields:
        `Started`, `Progress`, `Noted`, and at the end of each trial `Finished` or `Failed`.
    """
    waiting = [(study, trial, folder, checkpoint_seconds) for trial, folder in trials]
    workers: list[_Worker] = []
    try:
        for _ in range(min(jobs, len(waiting))):
            workers.append(worker := _start_worker())
            yield from _hand_out(worker, waiting)
        while busy := [worker for worker in workers if worker.trial is not None]:
            for ready in wait([worker.connection for worker in busy]):
                worker = next(each for each in busy if each.connection is ready)
                event = _receive(worker)
                yield event
                if isinstance(event, Finished | Failed):
                    if not worker.process.is_alive():
                        workers[workers.index(worker)] = worker = _start_worker()
                    yield from _hand_out(worker, waiting)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


_Job = tuple[Study, Trial, Path, float]


def _hand_out(worker: _Worker, waiting: list[_Job]) -> Iterator[Event]:
    worker.trial = None
    if waiting:
        job = waiting.pop(0)
        worker.trial = job[1]
        # A process that is dead already shows so when it is asked for events.
        with contextlib.suppress(BrokenPipeError):
            worker.connection.send(job)
        yield Started(worker.trial)


def _receive(worker: _Worker) -> Event:
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        assert worker.trial is not None
        code = worker.process.exitcode
        if code is not None and code < 0:
            return Failed(worker.trial, f"its process was killed by signal {-code}; out of memory?")
        return Failed(worker.trial, f"its process ended before it, with exit code {code}")


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Ctrl-C reaches every process of a terminal; the parent alone is to answer it. An ignored
    # signal stays ignored in the new process.
    with _ignored(signal.SIGINT):
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _work(connection: Connection) -> None:
    """A worker's life: trials from the connection, until there are no more."""
    torch.set_num_threads(1)
    # Without its parent it ends.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_attempt(connection, *connection.recv()))


def _attempt(
    connection: Connection, study: Study, trial: Trial, folder: Path, checkpoint_seconds: float
) -> Event:
    reported = 0.0

    def report(steps: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            connection.send(Progress(trial, steps))

    def note(text: str) -> None:
        connection.send(Noted(trial, text))

    # For users' agents that draw from the global generators; ours do not.
    set_random_seed(trial.seed)
    try:
        run_trial(study, trial, folder, report, note, checkpoint_seconds)
    except (Exception, SystemExit) as error:
        (folder / "error.txt").write_text(traceback.format_exc())
        first_line = str(error).strip().partition("\n")[0]
        return Failed(trial, f"{type(error).__name__}: {first_line}")
    return Finished(trial)
