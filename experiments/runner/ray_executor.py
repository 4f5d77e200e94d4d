"""Runs jobs as tasks of a Ray cluster, whose nodes need share no files with this machine.

This machine must be one of the nodes. Each node needs spangym, Ray and torch in the versions that
are here, and what the jobs read besides (files, agents of the user's own) where it is here; a
node on which a job would come out otherwise is refused.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from filelock import FileLock, Timeout

from spangym.experiments.runner.events import Event, Failed, Finished, Message, Started
from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.runner.job import CHECKPOINT_SECONDS, RESULT_FILE, Job, PlacedJob
from spangym.experiments.runner.run_job import clean_job_dir, is_finished, job_lock, run_job
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as missing:
    raise UserError(
        "--executor ray needs Ray, which is not installed: pip install 'spangym[cluster]'"
    ) from missing

_RETRIES = 3
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_ANSWER = 10.0
_SECONDS_TO_TIDY_UP = 5.0
_SECONDS_TO_HEAR = 0.5
_OBJECT_STORE_BYTES = 100 * 2**20
_PACKAGES = ("torch", "numpy")


@dataclass(frozen=True)
class _Files:
    """Files of a folder, by their paths in it: those that changed, and the names of all."""

    changed: dict[str, bytes]
    names: frozenset[str]


_TaskOutput = Event | _Files
"""What tasks tell."""


@dataclass(eq=False)
class _Run:
    """A job on its way through the cluster."""

    job: Job
    folder: Path
    lock: FileLock
    fingerprint: dict[str, str]
    started: bool = False
    noted: bool = False
    num_failures: int = 0

    def emit(self, event: Event) -> Iterator[Event]:
        """An event as views are to hear it: begun once, whatever became of the beginning."""
        if not self.started:
            self.started = True
            yield Started(self.job)
        if not isinstance(event, Started):
            yield event

    def fail(self, line: str, text: str) -> Iterator[Event]:
        """The end of a job whose task did not live to write down why."""
        (self.folder / "error.txt").write_text(f"{text.strip()}\n", "utf-8")
        self.lock.release()
        return self.emit(Failed(self.job, line))


class RayExecutor:
    """Runs jobs on a Ray cluster, one core each, and a GPU each where they compute on CUDA.

    Files come back as checkpoints are written and at the end, so that little is lost with a node.
    A job whose process or node dies is run again, up to three times, from the last checkpoint
    that came back.

    Args:
        address: Of a running cluster, HOST:PORT; None to start one on this machine meanwhile.
        num_workers: Most jobs at a time; None for as many as the cluster takes.
        checkpoint_seconds: Least time between two checkpoints of a training.

    Raises:
        UserError: Nothing answers at the address.
    """

    def __init__(
        self,
        address: str | None = None,
        num_workers: int | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        if address is not None:
            _check_answering(address)
        self._address = address
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds

    def run(self, jobs: Sequence[PlacedJob]) -> Iterator[Event]:
        """Run jobs; see `spangym.experiments.runner.executor.Executor`.

        Raises:
            UserError: The cluster cannot be used, or has no GPU for jobs that need one.
        """
        hashes = DatasetHashes()
        runs = [
            _Run(job, folder, job_lock(folder), _environment_fingerprint(job, hashes))
            for job, folder in jobs
        ]
        if not runs:
            return
        try:
            # Leaving it ends the tasks, so that the locks outlast them.
            with _connected(self._address, self._num_workers or available_cpus()):
                _check_gpus(runs)
                yield from _Dispatch(runs, self._num_workers, self._checkpoint_seconds).events()
        finally:
            for run in runs:
                run.lock.release()


class _Dispatch:
    """Hands jobs out to a cluster and takes in what comes of them.

    Args:
        runs: The jobs.
        num_workers: Most of them at a time; None for as many as the cluster takes.
        checkpoint_seconds: Least time between two checkpoints of a training.
    """

    def __init__(
        self, runs: Sequence[_Run], num_workers: int | None, checkpoint_seconds: float
    ) -> None:
        self._waiting = [*runs]
        self._out: dict[ray.ObjectRefGenerator, _Run] = {}
        self._num_workers = num_workers
        self._checkpoint_seconds = checkpoint_seconds

    def events(self) -> Iterator[Event]:
        """All that happens, until each job has ended."""
        try:
            due = time.monotonic()
            while self._waiting or self._out:
                if time.monotonic() >= due:
                    yield from self._dispatch()
                    due = time.monotonic() + _SECONDS_BETWEEN_LOOKS
                if self._out:
                    for task in self._ready():
                        yield from self._receive(task)
                        if task not in self._out:
                            due = time.monotonic()
                elif self._waiting:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            self._cancel()

    def _cancel(self) -> None:
        """Have the tasks tidy up, for which there is no time as they are killed."""
        for task in self._out:
            ray.cancel(task)
        if ends := [task.completed() for task in self._out]:
            ray.wait(ends, num_returns=len(ends), timeout=_SECONDS_TO_TIDY_UP)

    def _dispatch(self) -> Iterator[Event]:
        most = self._num_workers or _twice_the_cores()
        for run in [*self._waiting]:
            if len(self._out) >= most:
                return
            try:
                run.lock.acquire(blocking=False)
            except Timeout:
                if not run.noted:
                    run.noted = True
                    yield Message(run.job, "another process runs it; waiting for what comes of it")
                continue
            self._waiting.remove(run)
            if is_finished(run.folder):
                run.lock.release()
                yield from run.emit(Finished(run.job))
            else:
                self._submit(run)

    def _submit(self, run: _Run) -> None:
        clean_job_dir(run.folder)
        files = _FileSync(run.folder).changes()
        # Ray's own retries know nothing of the checkpoints that came back.
        task: Any = ray.remote(num_cpus=1, num_gpus=_gpus(run.job), max_retries=0)(run_remote_job)
        given = run.job, files, run.fingerprint, self._checkpoint_seconds
        self._out[task.remote(*given)] = run

    def _ready(self) -> list[ray.ObjectRefGenerator]:
        """Tasks that have something to emit, after a while if none has."""
        tasks = [*self._out]
        ready, _ = ray.wait(tasks, timeout=_SECONDS_BETWEEN_LOOKS)
        # It stops at the first, and asking anew for each takes long where there are many.
        return ready and ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]

    def _receive(self, task: ray.ObjectRefGenerator) -> Iterator[Event]:
        run = self._out[task]
        try:
            message: Any = ray.get(next(task))
        except RayTaskError as error:
            # Around the job, whose own errors it tells itself: no spangym there, a full disk.
            del self._out[task]
            yield from run.fail(str(error).strip().rpartition("\n")[2], str(error))
        except RayError as error:
            del self._out[task]
            run.num_failures += 1
            how = type(error).__name__
            if run.num_failures > _RETRIES:
                line = f"its process or node died {run.num_failures} times, at last by {how}"
                yield from run.fail(line, f"{error}\n{line}")
            else:
                again = "it is run again, from the last checkpoint that came back"
                yield Message(run.job, f"its process or node died ({how}); {again}")
                self._submit(run)
        else:
            if isinstance(message, _Files):
                _sync_files(run.folder, message)
                return
            if isinstance(message, Finished | Failed):
                del self._out[task]
                run.lock.release()
            yield from run.emit(message)


def run_remote_job(
    job: Job,
    files: _Files,
    fingerprint: dict[str, str],
    checkpoint_seconds: float,
) -> Iterator[_TaskOutput]:
    """The task: one attempt at a job, in a folder of its own.

    Args:
        job: The job.
        files: Of its folder, as an interrupted attempt left it.
        fingerprint: What its numbers hang on, as it is on the runner's machine.
        checkpoint_seconds: Least time between two checkpoints of a training.

    Yields:
        What happens, and the folder's files as they change.

    Raises:
        RuntimeError: The numbers would be others here.
    """
    yield Started(job)
    for name, there in _environment_fingerprint(job, DatasetHashes()).items():
        if there != fingerprint[name]:
            raise RuntimeError(
                f"{name}: {there} on node {socket.gethostname()}, {fingerprint[name]} on the runner's "
                "machine; have the same on both"
            )
    with tempfile.TemporaryDirectory(prefix="spangym-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary, "job")
        _sync_files(folder, files)
        outgoing = _FileSync(folder)
        outgoing.changes()
        messages: SimpleQueue[_TaskOutput | None] = SimpleQueue()

        def emit(event: Event) -> None:
            # The training waits here meanwhile: no file is caught half written.
            if outgoing.has_new_checkpoint():
                messages.put(outgoing.changes())
            messages.put(event)

        # In a thread, since it is to tell of itself while it runs.
        pool = ThreadPoolExecutor(1)
        end = pool.submit(run_job, job, folder, emit, checkpoint_seconds)
        end.add_done_callback(lambda _: messages.put(None))
        pool.shutdown(wait=False)
        try:
            while (message := _next(messages)) is not None:
                yield message
            yield outgoing.changes()
            yield end.result()
        finally:
            # A training that is cancelled goes on for a while: it is to find no place to write to.
            folder.rename(folder.with_name("ended"))


def _next(messages: SimpleQueue[_TaskOutput | None]) -> _TaskOutput | None:
    # Awake now and then, since only so it hears that it is cancelled.
    while True:
        with contextlib.suppress(Empty):
            return messages.get(timeout=_SECONDS_TO_HEAR)


class _FileSync:
    """A folder whose files are sent as they change.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[str, tuple[int, int]] = {}

    def has_new_checkpoint(self) -> bool:
        """Whether there is one that was not sent."""
        there = self._folder.glob("checkpoints/step-*")
        return any(f"checkpoints/{path.name}" not in self._sent for path in there)

    def changes(self) -> _Files:
        """What has changed since this was last asked."""
        there = {}
        for path in _files_of(self._folder):
            state = path.stat()
            there[path.relative_to(self._folder).as_posix()] = state.st_size, state.st_mtime_ns
        changed = [name for name, state in there.items() if self._sent.get(name) != state]
        self._sent = there
        content = {name: (self._folder / name).read_bytes() for name in changed}
        return _Files(content, frozenset(there))


def _sync_files(folder: Path, files: _Files) -> None:
    """Make a folder what it is on the other side; the file that says finished comes last."""
    for name in sorted(files.changed, key=lambda name: name == RESULT_FILE):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as tmp:
            tmp.write_bytes(files.changed[name])
    for path in _files_of(folder):
        if path.relative_to(folder).as_posix() not in files.names:
            path.unlink()


def _files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _environment_fingerprint(job: Job, hashes: DatasetHashes) -> dict[str, str]:
    """What must be the same on two machines for the same numbers, beyond what Ray looks at."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "key of spangym and what is read": config_hash(job.config_for_hash(hashes))}


def _gpus(job: Job) -> int:
    return int(torch.device(job.device).type == "cuda")


def _check_gpus(runs: Sequence[_Run]) -> None:
    needed = any(_gpus(run.job) for run in runs)
    # Ray would wait for one to be added.
    if needed and not ray.cluster_resources().get("GPU"):
        raise UserError("the device is CUDA, but no node of the Ray cluster has a GPU")


def _twice_the_cores() -> int:
    """As many again as can run, so that no core waits, and a cluster grows that can."""
    return 2 * int(ray.cluster_resources().get("CPU", 0)) or 1


def _check_answering(address: str) -> None:
    # Ray itself tries for minutes, and fills the screen meanwhile.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r}: --address takes HOST:PORT of a running one, "
            "as `ray start --head` prints it"
        ) from error


@contextlib.contextmanager
def _connected(address: str | None, cores: int) -> Iterator[None]:
    """Ray, as long as it is needed; leaving ends the tasks."""
    if ray.is_initialized():
        raise UserError("this process is connected to a Ray cluster already: call ray.shutdown()")
    try:
        _connect(address, cores)
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, cores: int) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {
            "address": "local",
            "num_cpus": cores,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        name = "Ray on this machine" if address is None else f"the Ray cluster at {address}"
        # Of a token that is lacking Ray says so only in its log.
        hint = "; if it asks for a token, set RAY_AUTH_MODE=token"
        hint = hint if isinstance(error, ConnectionError) else ""
        raise UserError(f"{name} cannot be used: {' '.join(str(error).split())}{hint}") from error
    finally:
        # Ray puts its own in the place of the caller's.
        signal.signal(signal.SIGTERM, handler)
