"""What runs trials: one small interface, whatever machines there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from .events import Event
from .studies import Trial

Job = tuple[Trial, Path]
"""A trial and the folder for its files, as an interrupted process left it, if it is there."""


class Executor(Protocol):
    """Runs trials, which do not depend on each other."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Event]:
        """Run trials side by side; yields what happens as it happens.

        A trial that fails does not stop the others, and leaves ``error.txt`` in its folder. One
        that another process runs is waited for, not run twice. When the iterator is closed, by an
        interrupt say, what runs is ended where it stands.

        Args:
            jobs: The trials, in the order in which they are to begin.

        Yields:
            `Started`, `Progress`, `Noted`, and at the end of each trial `Finished` or `Failed`.
        """
        ...
