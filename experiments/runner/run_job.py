"""Running jobs: all of a run by an executor, and one attempt at one job in this process."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from filelock import Timeout
from stable_baselines3.common.utils import set_random_seed

from spangym.experiments.runner.job import (
    Event,
    Executor,
    Failed,
    Finished,
    Job,
    Message,
    PlacedJob,
    Progress,
)
from spangym.experiments.runner.job_files import clean_job_dir, is_finished, job_lock, save_error
from spangym.utils.errors import describe_error
from spangym.utils.text import printable

_SECONDS_BETWEEN_REPORTS = 0.2


def run_jobs(
    jobs: Sequence[PlacedJob], executor: Executor, show: Callable[[Event], object]
) -> dict[str, str]:
    """Run jobs, or resume them, and show their events; jobs that share a folder are run once.

    Returns:
        Errors of the failed jobs, one line each, by job id.
    """
    by_folder: dict[Path, list[Job]] = {}
    for job, folder in jobs:
        by_folder.setdefault(folder, []).append(job)
    by_id = {same[0].job_id: same for same in by_folder.values()}
    failed: dict[str, str] = {}
    placed = [(same[0], folder) for folder, same in by_folder.items()]
    with contextlib.closing(executor.run(placed)) as events:
        for event in events:
            for job in by_id[event.job.job_id]:
                show(replace(event, job=job))
                if isinstance(event, Failed):
                    failed[job.job_id] = event.error
    return failed


def run_job(
    job: Job, folder: Path, emit: Callable[[Event], None], checkpoint_seconds: float
) -> Event:
    """Run a job in its folder, locked until the end, unless another process completes it first.

    ``emit`` is called with `Progress` and `Message` events; see `Job.run` for the rest. Whatever a
    user's code raises, `KeyboardInterrupt` included, is a failure of the job.
    """
    process = os.getpid()
    try:
        with _locked(job, folder, emit):
            try:
                if not is_finished(folder):
                    _run(job, folder, emit, checkpoint_seconds)
            finally:
                if os.getpid() != process:
                    _end_forked_process()
    except BaseException as error:
        save_error(folder, _format(error))
        return Failed(job, describe_error(error))
    return Finished(job)


def _end_forked_process() -> NoReturn:
    """End a process that a job has forked, which must not report the job's end or free its lock."""
    error = sys.exception()
    is_success = isinstance(error, SystemExit) and error.code in (None, 0)
    os._exit(0 if is_success else 1)


@contextlib.contextmanager
def _locked(job: Job, folder: Path, emit: Callable[[Event], None]) -> Iterator[None]:
    lock = job_lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        emit(Message(job, "another process runs it; waiting for its result"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _run(job: Job, folder: Path, emit: Callable[[Event], None], checkpoint_seconds: float) -> None:
    reported = 0.0

    def report(done: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            emit(Progress(job, done))

    def log(text: str) -> None:
        emit(Message(job, printable(text)))

    torch.set_num_threads(1)
    # For users' agents that draw from the global generators; ours do not.
    set_random_seed(job.seed)
    clean_job_dir(folder)
    job.run(folder, report, log, checkpoint_seconds)


def _format(error: BaseException) -> str:
    """Return the traceback, with the type and what can be said as its last line."""
    line = describe_error(error)
    try:
        text = "".join(traceback.format_exception(error)).strip()
    except Exception:  # The exception is of the user's code, and so may its attributes be.
        return line
    return text if text.rpartition("\n")[2] == line else f"{text}\n{line}"
