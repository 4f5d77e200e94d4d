"""Runs jobs in processes of their own, one thread each, one job at a time in a process."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from spangym.experiments.runner.events import Event, Failed, Finished, Started
from spangym.experiments.runner.job import CHECKPOINT_SECONDS, Job, PlacedJob
from spangym.experiments.runner.run_job import is_locked, run_job


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


class LocalExecutor:
    """Runs jobs in processes of this machine.

    Args:
        num_workers: Most of them at a time.
        checkpoint_seconds: Least time between two checkpoints of a training.
    """

    def __init__(self, num_workers: int, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds

    def run(self, jobs: Sequence[PlacedJob]) -> Iterator[Event]:
        """Run jobs; see `spangym.experiments.runner.executor.Executor`."""
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
            # Those that another runner is at come last: they may be finished by then.
            free = (placed for placed in waiting if not is_locked(placed[1]))
            placed = next(free, waiting[0])
            waiting.remove(placed)
            worker.job = placed[0]
            # A process that is dead already shows so when it is asked for events.
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
        return Failed(worker.job, f"its process ended before it, with exit code {code}")


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Ctrl-C reaches every process of a terminal; the parent alone is to answer it. An ignored
    # signal stays ignored in the new process.
    with _ignored(signal.SIGINT):
        process = context.Process(target=_worker_main, args=(theirs,), daemon=True)
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


def _worker_main(connection: Connection) -> None:
    """A worker's life: jobs from the connection, until there are no more."""
    # Without its parent it ends.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, folder, checkpoint_seconds = connection.recv()
            connection.send(run_job(job, folder, connection.send, checkpoint_seconds))
