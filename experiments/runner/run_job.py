"""One attempt at a job: by one process at a time, and with its error written down."""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from stable_baselines3.common.utils import set_random_seed

from spangym.experiments.runner.events import Event, Failed, Finished, Message, Progress
from spangym.experiments.runner.job import RESULT_FILE, Job

_SECONDS_BETWEEN_REPORTS = 0.2


def job_lock(folder: Path) -> FileLock:
    """The lock of a job's folder, which ends with the process that holds it.

    Args:
        folder: The job's folder; it need not be there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def is_locked(folder: Path) -> bool:
    """Whether some process is at a job at this moment."""
    lock = job_lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def is_finished(folder: Path) -> bool:
    """Whether the job in a folder is complete."""
    return (folder / RESULT_FILE).exists()


def clean_job_dir(folder: Path) -> None:
    """Make the folder of a job that begins; of an interrupted one only checkpoints are of use."""
    if folder.exists() and not any(folder.glob("checkpoints/step-*")):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        # An error that is to be tried again, and what a killed process was writing.
        if path.name.startswith(".") and path.is_dir():
            shutil.rmtree(path)
        elif path.name == "error.txt" or path.name.startswith("."):
            path.unlink()


def run_job(
    job: Job, folder: Path, emit: Callable[[Event], None], checkpoint_seconds: float
) -> Event:
    """Run a job in this process, unless it is finished by the time that its folder is free.

    Args:
        job: The job.
        folder: Its folder, which is locked meanwhile.
        emit: Told of progress and of what the user should know.
        checkpoint_seconds: Least time between two checkpoints of a training.

    Returns:
        `Finished` or `Failed`.
    """
    lock = job_lock(folder)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        emit(Message(job, "another process runs it; waiting for what comes of it"))
        lock.acquire()
    try:
        if is_finished(folder):
            return Finished(job)
        return _run(job, folder, emit, checkpoint_seconds)
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
        # On a full disk the error is all there is.
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(traceback.format_exc())
        first_line = str(error).strip().partition("\n")[0]
        return Failed(job, f"{type(error).__name__}: {first_line}")
    return Finished(job)
