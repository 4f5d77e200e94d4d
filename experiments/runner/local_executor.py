"""Executor that runs jobs in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from spangym.experiments.runner.job import (
    CHECKPOINT_SECONDS,
    Event,
    Failed,
    Finished,
    Job,
    PlacedJob,
    Started,
)
from spangym.experiments.runner.job_files import is_locked
from spangym.experiments.runner.run_job import run_job


@dataclass
class _Worker:
    """A process that runs one job after the other."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None


class LocalExecutor:
    """Runs jobs in processes of this machine, one thread each."""

    def __init__(self, num_workers: int, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds

    def run(self, jobs: Sequence[PlacedJob]) -> Iterator[Event]:
        """Run jobs in parallel; see `spangym.experiments.runner.job.Executor`."""
        waiting = [*jobs]
        workers: list[_Worker] = []
        try:
            for _ in range(min(self._num_workers, len(waiting))):
                workers.append(worker := _start_worker())
                yield from self._dispatch(worker, waiting)
            while busy := [worker for worker in workers if worker.job is not None]:
                for ready in wait([worker.connection for worker in busy]):
                    worker = next(each for each in busy if each.connection is ready)
                    event = _receive(worker)
                    yield event
                    if isinstance(event, Finished | Failed):
                        if not worker.process.is_alive():
                            workers[workers.index(worker)] = worker = _start_worker()
                        yield from self._dispatch(worker, waiting)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()

    def _dispatch(self, worker: _Worker, waiting: list[PlacedJob]) -> Iterator[Event]:
        worker.job = None
        if waiting:
            # Jobs that another runner is running come last: they may be finished by then.
            free = (placed for placed in waiting if not is_locked(placed[1]))
            placed = next(free, waiting[0])
            waiting.remove(placed)
            worker.job = placed[0]
            # A dead process is noticed when its events are received.
            with contextlib.suppress(BrokenPipeError):
                worker.connection.send((*placed, self._checkpoint_seconds))
            yield Started(worker.job)


def _receive(worker: _Worker) -> Event:
    try:
        return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        assert worker.job is not None
        code = worker.process.exitcode
        if code is not None and code < 0:
            return Failed(worker.job, f"its process was killed by signal {-code}; out of memory?")
        return Failed(worker.job, f"its process ended early with exit code {code}")


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker_main, args=(theirs,), daemon=True)
    # Ctrl-C reaches every process of a terminal, but only the parent should react. The new process
    # inherits the ignored signal.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()
    return _Worker(process, ours)


def _worker_main(connection: Connection) -> None:
    """Run jobs from the connection until the parent closes it or dies."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, folder, checkpoint_seconds = connection.recv()
            connection.send(run_job(job, folder, connection.send, checkpoint_seconds))
