"""What is run: one small interface for all that takes a while, is kept and is gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from spangym.experiments.runner.fingerprint import DatasetHashes

CHECKPOINT_SECONDS = 30.0
"""Least time between two checkpoints of a training."""

RESULT_FILE = "result.json"
"""File that a job's folder holds once the job is complete, and not before."""


class Job(Protocol):
    """Something to be run, which does not depend on what else is: a trial, say.

    Jobs are sent to other processes and machines: they pickle, and are of a class that can be
    imported there.
    """

    @property
    def job_id(self) -> str:
        """What it is called in messages: unique among those that are run together."""
        ...

    @property
    def name(self) -> str:
        """The same for a progress bar, in a few words."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the global generators, as the job begins."""
        ...

    @property
    def total(self) -> int:
        """How far progress counts."""
        ...

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""
        ...

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """All that its numbers hang on, but for the machine and its libraries.

        Args:
            hashes: Of what sources read.

        Returns:
            Ready for JSON.
        """
        ...

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        log: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Do all of it; writes `RESULT_FILE` last.

        Args:
            folder: Its folder, empty or as an interrupted process left it: with the files
                ``checkpoints/step-*`` if there are any.
            progress: Called with how far it has come, of ``total``.
            log: Called with what the user should know.
            checkpoint_seconds: Least time between checkpoints.

        Raises:
            Exception: Why it failed.
        """
        ...


PlacedJob = tuple[Job, Path]
"""A job and the folder for its files, as an interrupted process left it, if it is there."""
