"""Interfaces of jobs and executors, and the events of a run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spangym.experiments.runner.fingerprint import DatasetHashes

CHECKPOINT_SECONDS = 30.0
"""Default for the least time between two checkpoints of a training."""


class Job(Protocol):
    """An independent unit of work, for example one trial, of an importable class: jobs are pickled.

    Attributes:
        job_id: Name in messages and in the path of the job's folder, unique within a run.
        name: Name in progress bars.
        seed: Seed of the global generators of Python, NumPy and PyTorch at the start of the job.
        total: Amount of progress at the end of the job.
        device: Torch device of the computation.
        has_user_code: Whether the job runs code that is not of spangym. It may change its process
            in any way: no other job then runs in that process.
    """

    @property
    def job_id(self) -> str: ...  # noqa: D102  (see Attributes)

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def seed(self) -> int: ...  # noqa: D102

    @property
    def total(self) -> int: ...  # noqa: D102

    @property
    def device(self) -> str: ...  # noqa: D102

    @property
    def has_user_code(self) -> bool: ...  # noqa: D102

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """Return everything that affects the results, except machine and libraries, for JSON."""
        ...

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        log: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Run the job and write `RESULT_FILE` as its last file; any exception means that it failed.

        Args:
            folder: Folder of the job: empty, or with checkpoints of an interrupted process.
            progress: Function of the progress so far, at most ``total``.
            log: Function of a message for the user.
            checkpoint_seconds: Least time between checkpoints.
        """
        ...


PlacedJob = tuple[Job, Path]
"""A job and its folder, which need not exist."""


@dataclass(frozen=True)
class Started:
    """A job has started."""

    job: Job


@dataclass(frozen=True)
class Progress:
    """A job has made progress; ``done`` is at most ``job.total``."""

    job: Job
    done: int


@dataclass(frozen=True)
class Message:
    """A message about a job for the user, one line."""

    job: Job
    text: str


@dataclass(frozen=True)
class Finished:
    """A job is complete."""

    job: Job


@dataclass(frozen=True)
class Failed:
    """A job has failed; ``error`` is one line."""

    job: Job
    error: str


Event = Started | Progress | Message | Finished | Failed


class Executor(Protocol):
    """Runs independent jobs."""

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        """Run jobs in parallel, in the given order, and yield their events.

        A failed job leaves ``error.txt`` in its folder and does not stop the others. A job that
        another process is running is awaited instead of run twice. A job with a user's code has a
        process of its own, so that no result depends on the jobs before it. Closing the iterator,
        for example on an interrupt, kills the running jobs.

        Yields:
            `Started`, `Progress` and `Message`, and for each job one `Finished` or `Failed`.
        """
        ...
