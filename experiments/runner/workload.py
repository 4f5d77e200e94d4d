"""The work of a study, estimated before it begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from spangym.utils.errors import UserError
from spangym.utils.text import pluralize

MAX_TRIALS = 10**6
"""Most trials of a study."""

MAX_TOTAL_STEPS = 10**12
"""Most steps of a study, over all trials, in training and evaluation together."""


@dataclass(frozen=True)
class Workload:
    """The work of a study.

    Attributes:
        trials: Number of trials.
        steps: Number of steps of all trials, by kind.
        peak_bytes: Lower bound of the memory of the largest trial, without libraries and networks.
    """

    trials: int
    steps: Mapping[str, int]
    peak_bytes: int

    def __str__(self) -> str:
        """Return the work in one line."""
        steps = ", ".join(f"{number:,} {kind}" for kind, number in self.steps.items())
        memory = format_bytes(self.peak_bytes)
        return f"{pluralize(self.trials, 'trial')}: {steps}; a trial holds at least {memory}"

    def check(self, memory_bytes: int | None = None) -> None:
        """Raise a UserError if a study is too large for any machine, or for this one's memory."""
        for number, what, limit in (
            (self.trials, "trials", MAX_TRIALS),
            (sum(self.steps.values()), "steps in training and evaluation", MAX_TOTAL_STEPS),
        ):
            if number > limit:
                raise UserError(
                    f"the study has {number:,} {what}, at most {limit:,} are possible: lower its "
                    "numbers of seeds, agents, steps or episodes"
                )
        if memory_bytes is not None and self.peak_bytes > memory_bytes:
            raise UserError(
                f"a trial of the study holds at least {format_bytes(self.peak_bytes)}, this "
                f"machine has {format_bytes(memory_bytes)}: lower its numbers of episodes and "
                "parallel environments, its batch, sizes or buffers"
            )


def machine_memory() -> int | None:
    """Return the physical memory of this machine in bytes; None if it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def format_bytes(number: float) -> str:
    """Return a number of bytes in the largest unit.

    Example:
        >>> format_bytes(3 * 2**29)
        '1.5 GiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
