"""What happens as trials run, told by executors and shown by views."""

from __future__ import annotations

from dataclasses import dataclass

from .studies import Trial


@dataclass(frozen=True)
class Started:
    """A trial has begun."""

    trial: Trial


@dataclass(frozen=True)
class Progress:
    """A trial has taken so many of its steps."""

    trial: Trial
    steps: int


@dataclass(frozen=True)
class Noted:
    """Something that the user should know of a trial, in a line."""

    trial: Trial
    text: str


@dataclass(frozen=True)
class Finished:
    """A trial is complete."""

    trial: Trial


@dataclass(frozen=True)
class Failed:
    """A trial has ended by an error, said in a line."""

    trial: Trial
    error: str


Event = Started | Progress | Noted | Finished | Failed
