"""What runs jobs: one small interface, whatever machines there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from spangym.experiments.runner.events import Event
from spangym.experiments.runner.job import PlacedJob


class Executor(Protocol):
    """Runs jobs, which do not depend on each other."""

    def run(self, jobs: Sequence[PlacedJob]) -> Iterator[Event]:
        """Run jobs side by side; yields what happens as it happens.

        A job that fails does not stop the others, and leaves ``error.txt`` in its folder. One
        that another process runs is waited for, not run twice. When the iterator is closed, by an
        interrupt say, what runs is ended where it stands.

        Args:
            jobs: The jobs, in the order in which they are to begin.

        Yields:
            `Started`, `Progress`, `Message`, and at the end of each job `Finished` or `Failed`.
        """
        ...
