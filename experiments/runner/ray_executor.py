"""Executor that runs jobs as tasks of a Ray cluster, whose nodes need not share files.

This machine must be one of the nodes. Each node needs spangym, Ray and torch in the versions of
this machine, and the files that jobs read (datasets, users' agents) at the same paths; nodes on
which a job would have other results are refused. Tables are copied to the cache folders of nodes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from filelock import FileLock, Timeout

from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.runner.job import (
    CHECKPOINT_SECONDS,
    Event,
    Failed,
    Finished,
    Job,
    Message,
    PlacedJob,
    Started,
)
from spangym.experiments.runner.job_files import (
    clean_job_dir,
    is_finished,
    job_lock,
    make_parents,
    read_files,
    replace_files,
    save_error,
)
from spangym.experiments.runner.manifest import available_cpus
from spangym.experiments.runner.run_job import run_job
from spangym.experiments.tables.build_tables import tables_of
from spangym.experiments.tables.copy_table import install_table, pack_table
from spangym.utils.errors import UserError
from spangym.utils.streams import replace_unprintable
from spangym.utils.text import collapse_whitespace, printable

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as missing:
    raise UserError(
        "--executor ray needs Ray, which is not installed: pip install 'spangym[cluster]'"
    ) from missing

_RETRIES = 3
_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_CANCEL_SECONDS = 5.0
_TASK_POLL_SECONDS = 0.5
_OBJECT_STORE_BYTES = 100 * 2**20
_PACKAGES = ("torch", "numpy")

_Files = dict[str, bytes]
"""Content of all files of a folder, by relative path."""

_Tables = dict[str, list[ray.ObjectRef]]
"""Files of tables in the object store, by the table's name; a list keeps Ray from sending them."""


@dataclass(eq=False)
class _Run:
    """A job with its folder, lock and state in the cluster."""

    job: Job
    folder: Path
    lock: FileLock
    fingerprint: dict[str, str]
    started: bool = False
    waiting_reported: bool = False
    num_failures: int = 0

    def emit(self, event: Event) -> Iterator[Event]:
        """Yield an event, with `Started` exactly once and first, however often the job is run."""
        if not self.started:
            self.started = True
            yield Started(self.job)
        if not isinstance(event, Started):
            yield event

    def fail(self, line: str, text: str) -> Iterator[Event]:
        """Write the error of a task that could not write it itself, and end the job."""
        save_error(self.folder, text)
        self.lock.release()
        return self.emit(Failed(self.job, printable(line)))


class RayExecutor:
    """Runs jobs on a Ray cluster, with one core each, and one GPU each if they compute on CUDA.

    Files are copied to this machine with each checkpoint and at the end. A job whose process or
    node dies is run again, at most three times, from the last copied checkpoint. The address is
    HOST:PORT; without one, a cluster is started on this machine. Without a number of workers, as
    many jobs run at a time as the cluster takes.
    """

    def __init__(
        self,
        address: str | None = None,
        num_workers: int | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        if address is not None:
            _check_reachable(address)
        self._address = address
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds
        self._tables: dict[Path, ray.ObjectRef] = {}

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        """Run jobs in parallel; UserError if the cluster cannot be used, or lacks a needed GPU."""
        hashes = DatasetHashes()
        make_parents(folder for _, folder in jobs)
        waiting = [
            _Run(job, folder, job_lock(folder), _environment_fingerprint(job, hashes))
            for job, folder in jobs
        ]
        if not waiting:
            return
        locks = [run.lock for run in waiting]
        running: dict[ray.ObjectRefGenerator, _Run] = {}
        try:
            # Disconnecting ends the tasks, so that they end before the locks are released.
            self._tables.clear()
            with _connected(self._address, self._num_workers or available_cpus()):
                # Ray would wait for a node with a GPU to join.
                needs_gpu = any(_num_gpus(run.job) for run in waiting)
                if needs_gpu and not ray.cluster_resources().get("GPU"):
                    raise UserError("the device is CUDA, but no node of the Ray cluster has a GPU")
                try:
                    yield from self._run(waiting, running)
                finally:
                    _cancel([*running])
        finally:
            for lock in locks:
                lock.release()

    def _run(
        self, waiting: list[_Run], running: dict[ray.ObjectRefGenerator, _Run]
    ) -> Iterator[Event]:
        dispatch_time = time.monotonic()
        while waiting or running:
            if time.monotonic() >= dispatch_time:
                yield from self._dispatch(waiting, running)
                dispatch_time = time.monotonic() + _POLL_SECONDS
            if not running:
                time.sleep(_POLL_SECONDS if waiting else 0)
                continue
            tasks = [*running]
            ready, _ = ray.wait(tasks, timeout=_POLL_SECONDS)
            # The call returns with the first task; one call for all others is fast.
            for task in ready and ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]:
                yield from self._receive(task, running)
                if task not in running:
                    dispatch_time = time.monotonic()

    def _dispatch(
        self, waiting: list[_Run], running: dict[ray.ObjectRefGenerator, _Run]
    ) -> Iterator[Event]:
        # Twice the cores keep all cores busy, and let an autoscaling cluster grow.
        most = self._num_workers or 2 * int(ray.cluster_resources().get("CPU", 0)) or 1
        for run in [*waiting]:
            if len(running) >= most:
                return
            try:
                run.lock.acquire(blocking=False)
            except Timeout:
                if not run.waiting_reported:
                    run.waiting_reported = True
                    yield Message(run.job, "another process runs it; waiting for its result")
                continue
            waiting.remove(run)
            if is_finished(run.folder):
                run.lock.release()
                yield from run.emit(Finished(run.job))
            else:
                running[self._submit(run)] = run

    def _submit(self, run: _Run) -> ray.ObjectRefGenerator:
        clean_job_dir(run.folder)
        # Ray's own retries would not start from the copied checkpoints. What a user's code changes
        # in its process must not reach the next job.
        options: dict[str, Any] = {"num_gpus": _num_gpus(run.job), "max_retries": 0}
        if run.job.has_user_code:
            options["max_calls"] = 1
        task: Any = ray.remote(num_cpus=1, **options)(run_remote_job)
        files, tables = read_files(run.folder), self._store_tables(run.job)
        return task.remote(run.job, files, run.fingerprint, self._checkpoint_seconds, tables)

    def _store_tables(self, job: Job) -> _Tables:
        """Put the tables of a job into the object store, each once.

        A cluster on this machine alone reads them where they are.
        """
        if self._address is None:
            return {}
        paths = [path for each in tables_of([job]) if (path := each.request.find()) is not None]
        for path in paths:
            if path not in self._tables:
                self._tables[path] = ray.put(pack_table(path))
        return {path.name: [self._tables[path]] for path in paths}

    def _receive(
        self, task: ray.ObjectRefGenerator, running: dict[ray.ObjectRefGenerator, _Run]
    ) -> Iterator[Event]:
        run = running[task]
        try:
            message: Any = ray.get(next(task))
        except RayTaskError as error:
            # An error outside the job: spangym is missing on the node, its disk is full, ...
            del running[task]
            yield from run.fail(str(error).strip().rpartition("\n")[2], str(error))
        except RayError as error:
            del running[task]
            run.num_failures += 1
            name = type(error).__name__
            if run.num_failures > _RETRIES:
                line = f"its process or node died {run.num_failures} times, the last time by {name}"
                yield from run.fail(line, f"{error}\n{line}")
            else:
                retry = "it is run again from the last copied checkpoint"
                yield Message(run.job, f"its process or node died ({name}); {retry}")
                running[self._submit(run)] = run
        else:
            if isinstance(message, dict):
                try:
                    replace_files(run.folder, message)
                except ValueError as error:
                    del running[task]
                    ray.cancel(task)
                    yield from run.fail(f"its node sent a wrong name: {error}", str(error))
                return
            if isinstance(message, Finished | Failed):
                del running[task]
                run.lock.release()
            yield from run.emit(message)


def _cancel(tasks: Sequence[ray.ObjectRefGenerator]) -> None:
    """Cancel tasks and give them time to delete their temporary files."""
    for task in tasks:
        ray.cancel(task)
    if ends := [task.completed() for task in tasks]:
        ray.wait(ends, num_returns=len(ends), timeout=_CANCEL_SECONDS)


def run_remote_job(
    job: Job,
    files: _Files,
    fingerprint: dict[str, str],
    checkpoint_seconds: float,
    tables: _Tables,
) -> Iterator[Event | _Files]:
    """Run one attempt at a job in a temporary folder on a node: the Ray task.

    Yields:
        Events of the job, and the files of its folder with each new checkpoint and at the end.

    Raises:
        RuntimeError: The results on this node would differ from those on the runner's machine.
    """
    replace_unprintable()
    yield Started(job)
    for name, here in _environment_fingerprint(job, DatasetHashes()).items():
        if here != fingerprint[name]:
            raise RuntimeError(
                f"{name}: {here} on node {socket.gethostname()}, {fingerprint[name]} on the "
                "runner's machine; they must be equal"
            )
    for name, (content,) in tables.items():
        install_table(name, lambda content=content: ray.get(content))
    with tempfile.TemporaryDirectory(prefix="spangym-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, "job")
        replace_files(folder, files)
        sent = {*files}
        messages: SimpleQueue[Event | _Files | None] = SimpleQueue()

        def emit(event: Event) -> None:
            # The training waits meanwhile, so that no file is read while it is written.
            checkpoints = {f"checkpoints/{each.name}" for each in folder.glob("checkpoints/step-*")}
            if not checkpoints <= sent:
                sent.update(checkpoints)
                messages.put(read_files(folder))
            messages.put(event)

        # The job runs in a thread so that this generator can yield its messages.
        pool = ThreadPoolExecutor(1)
        end = pool.submit(run_job, job, folder, emit, checkpoint_seconds)
        end.add_done_callback(lambda _: messages.put(None))
        pool.shutdown(wait=False)
        try:
            while (message := _next(messages)) is not None:
                yield message
            yield read_files(folder)
            yield end.result()
        finally:
            # The thread of a cancelled job runs on for a while and must not find its folder.
            folder.rename(folder.with_name("ended"))


def _next(messages: SimpleQueue[Event | _Files | None]) -> Event | _Files | None:
    # A task receives its cancellation only while it runs Python code.
    while True:
        with contextlib.suppress(Empty):
            return messages.get(timeout=_TASK_POLL_SECONDS)


def _environment_fingerprint(job: Job, hashes: DatasetHashes) -> dict[str, str]:
    """Return what must be equal on two machines for equal results; Ray compares its own version."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "hash of spangym and inputs": config_hash(job.config_for_hash(hashes))}


def _num_gpus(job: Job) -> int:
    return int(torch.device(job.device).type == "cuda")


def _check_reachable(address: str) -> None:
    # Ray itself would try for minutes and log each attempt.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r}: --address takes HOST:PORT of a running one, "
            "as `ray start --head` prints it"
        ) from error


@contextlib.contextmanager
def _connected(address: str | None, num_cpus: int) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; the end of the context ends its tasks."""
    if ray.is_initialized():
        raise UserError("this process is connected to a Ray cluster already: call ray.shutdown()")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            name = "Ray on this machine" if address is None else f"the Ray cluster at {address}"
            # Ray reports a missing token only in its log.
            token = "; if it asks for a token, set RAY_AUTH_MODE=token"
            hint = token if isinstance(error, ConnectionError) else ""
            cause = collapse_whitespace(str(error))
            raise UserError(f"{name} cannot be used: {cause}{hint}") from error
        finally:
            # Ray replaces the caller's handler.
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()
