"""Running jobs: all of a run by an executor, and one attempt at one job in this process."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

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
from spangym.experiments.runner.job_files import clean_job_dir, is_finished, job_lock

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
    for event in executor.run([(same[0], folder) for folder, same in by_folder.items()]):
        for job in by_id[event.job.job_id]:
            show(replace(event, job=job))
            if isinstance(event, Failed):
                failed[job.job_id] = event.error
    return failed


def run_job(
    job: Job, folder: Path, emit: Callable[[Event], None], checkpoint_seconds: float
) -> Event:
    """Run a job in its folder, locked until the end, unless another process completes it first.

    ``emit`` is called with `Progress` and `Message` events; see `Job.run` for the rest.
    """
    lock = job_lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        emit(Message(job, "another process runs it; waiting for its result"))
        lock.acquire()
    try:
        return Finished(job) if is_finished(folder) else _run(job, folder, emit, checkpoint_seconds)
    finally:
        lock.release()


def _run(job: Job, folder: Path, emit: Callable[[Event], None], checkpoint_seconds: float) -> Event:
    reported = 0.0

    def report(done: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            emit(Progress(job, done))

    torch.set_num_threads(1)
    # For users' agents that draw from the global generators; ours do not.
    set_random_seed(job.seed)
    try:
        clean_job_dir(folder)
        job.run(folder, report, lambda text: emit(Message(job, text)), checkpoint_seconds)
    except (Exception, SystemExit) as error:
        # On a full disk not even the traceback can be written.
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(traceback.format_exc())
        first_line = str(error).strip().partition("\n")[0]
        return Failed(job, f"{type(error).__name__}: {first_line}")
    return Finished(job)
