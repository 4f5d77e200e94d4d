"""Executor that runs jobs in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Self

from spangym.experiments.runner.job import (
    CHECKPOINT_SECONDS,
    Event,
    Failed,
    Finished,
    Job,
    PlacedJob,
    Started,
)
from spangym.experiments.runner.job_files import is_locked, make_parents, save_error
from spangym.experiments.runner.run_job import run_job
from spangym.utils.streams import replace_unprintable

_POLL_SECONDS = 0.5
"""Time after which the death of a process is noticed, if its children hold its pipe open."""

_END_SECONDS = 5.0
"""Time in which a process that has closed its pipe must end."""


class LocalExecutor:
    """Runs jobs in processes of this machine, one thread each.

    A process runs one job after the other, except for jobs with a user's code: each of them has a
    new process, which is killed at its end together with the processes that it has started.
    Processes end with a call of `run`; in a ``with`` statement they serve the next call.
    """

    def __init__(self, num_workers: int, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds
        self._keeps_workers = False
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        """Keep processes between calls of `run`."""
        self._keeps_workers = True
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        self._keeps_workers = False
        while self._idle:
            self._idle.pop().kill()

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        """Run jobs in parallel; see `spangym.experiments.runner.job.Executor`."""
        # A relative path would be another folder after a user's code has changed the working one.
        waiting = [(job, folder.absolute()) for job, folder in jobs]
        make_parents(folder for _, folder in waiting)
        workers: list[_Worker] = []
        try:
            for _ in range(min(self._num_workers, len(waiting))):
                workers.append(worker := self._idle.pop() if self._idle else _Worker())
                yield from self._dispatch(worker, waiting)
            while busy := [worker for worker in workers if worker.job is not None]:
                wait([worker.connection for worker in busy], _POLL_SECONDS)
                for worker in busy:
                    if event := worker.receive():
                        yield event
                        if isinstance(event, Finished | Failed):
                            yield from self._dispatch(worker, waiting)
        finally:
            for worker in workers:
                if self._keeps_workers and worker.is_reusable:
                    self._idle.append(worker)
                else:
                    worker.kill()

    def _dispatch(self, worker: _Worker, waiting: list[PlacedJob]) -> Iterator[Event]:
        worker.job = None
        if waiting:
            # Jobs that another runner is running come last: they may be finished by then.
            free = (placed for placed in waiting if not is_locked(placed[1]))
            placed = next(free, waiting[0])
            waiting.remove(placed)
            worker.start(*placed, self._checkpoint_seconds)
            yield Started(placed[0])


class _Worker:
    """A process that runs jobs, and is replaced when it must not run the next one."""

    job: Job | None = None
    folder: Path

    def __init__(self) -> None:
        self._start_process()

    @property
    def is_reusable(self) -> bool:
        """Whether the process waits for a job, and has not run a user's code."""
        return self.job is None and not self._ran_user_code

    def start(self, job: Job, folder: Path, checkpoint_seconds: float) -> None:
        """Send a job to the process, or to a new one."""
        is_used = self._num_jobs > 0
        if is_used and (self._ran_user_code or job.has_user_code or not self.process.is_alive()):
            self.kill()
            self._start_process()
        self.job, self.folder = job, folder
        self._num_jobs += 1
        self._ran_user_code = job.has_user_code
        # A dead process is noticed when its events are received.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send((job, folder, checkpoint_seconds))

    def receive(self) -> Event | None:
        """Return the next event of the job, None if there is none yet."""
        assert self.job is not None
        # What a process has sent before its death is received first.
        is_alive = self.process.is_alive()
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join(_END_SECONDS)
        else:
            if is_alive:
                return None
        code = self.process.exitcode
        self.kill()
        reason = f"its process ended early with exit code {code}"
        if code is None:
            reason = "its process has closed the pipe to the runner"
        elif code < 0:
            reason = f"its process was killed by signal {-code}; out of memory?"
        save_error(self.folder, reason)
        return Failed(self.job, reason)

    def kill(self) -> None:
        """Kill the process, and those that a user's code has started in it."""
        if self._ran_user_code and hasattr(os, "killpg"):
            # The process is the leader of a group of its own, once it has received the job.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self._ran_user_code = False
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _start_process(self) -> None:
        self._num_jobs, self._ran_user_code = 0, False
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_worker_main, args=(theirs,), daemon=True)
        with _inherited_by_processes(), _hidden_main_module():
            self.process.start()
        theirs.close()
        assert self.process.pid is not None
        self._pid = self.process.pid


@contextlib.contextmanager
def _inherited_by_processes() -> Iterator[None]:
    """Set what a process that is started in this context inherits."""
    # Ctrl-C reaches every process of a terminal, but only the parent should react. Python changes
    # signals in the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    # Equal hashes of text in all processes: a user's code may iterate over a set.
    hash_seed = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = hash_seed or "0"
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)
        del os.environ["PYTHONHASHSEED"]
        if hash_seed is not None:
            os.environ["PYTHONHASHSEED"] = hash_seed


@contextlib.contextmanager
def _hidden_main_module() -> Iterator[None]:
    """Keep a new process from running the script or notebook of this one again.

    Jobs need nothing of it, and a script without ``if __name__ == "__main__"`` would call itself.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _worker_main(connection: Connection) -> None:
    """Run jobs from the connection until the parent closes it or dies."""
    replace_unprintable()

    def emit(event: Event) -> None:
        try:
            connection.send(event)
        except (BrokenPipeError, ConnectionResetError):
            # The parent is dead: the job is interrupted, which is no failure of it.
            os._exit(1)

    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            job, folder, checkpoint_seconds = connection.recv()
            if job.has_user_code and hasattr(os, "setpgrp"):
                os.setpgrp()
            emit(run_job(job, folder, emit, checkpoint_seconds))
