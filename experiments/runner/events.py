"""What happens as jobs run, told by executors and shown by views."""

from __future__ import annotations

from dataclasses import dataclass

from spangym.experiments.runner.job import Job


@dataclass(frozen=True)
class Started:
    """A job has begun."""

    job: Job


@dataclass(frozen=True)
class Progress:
    """A job has come so far, of its total."""

    job: Job
    done: int


@dataclass(frozen=True)
class Message:
    """Something that the user should know of a job, in a line."""

    job: Job
    text: str


@dataclass(frozen=True)
class Finished:
    """A job is complete."""

    job: Job


@dataclass(frozen=True)
class Failed:
    """A job has ended by an error, said in a line."""

    job: Job
    error: str


Event = Started | Progress | Message | Finished | Failed
