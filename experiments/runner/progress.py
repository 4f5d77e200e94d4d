"""How jobs go on, as bars in a terminal or as plain lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from spangym.experiments.runner import events
from spangym.experiments.runner.job import Job


class ProgressReporter(Protocol):
    """Shows how jobs go on."""

    def show(self, event: events.Event) -> None:
        """Take note of what has happened."""
        ...


@contextlib.contextmanager
def make_reporter(
    console: Console, jobs: Sequence[Job], finished: Sequence[Job], noun: str, quiet: bool
) -> Iterator[ProgressReporter]:
    """What shows how jobs go on: bars in a terminal, lines elsewhere.

    Args:
        console: Where to.
        jobs: Jobs of the run.
        finished: Those that were finished before.
        noun: What the jobs are called, in the plural.
        quiet: Whether nothing is to be shown.
    """
    if quiet:
        yield NullReporter()
    elif console.is_terminal:
        with RichReporter(console, jobs, finished, noun) as bars:
            yield bars
    else:
        yield PlainReporter(console, jobs, finished)


class RichReporter:
    """A bar for each running job and one for the whole.

    Args:
        console: Terminal to draw on.
        jobs: Jobs of the run.
        finished: Those that were finished before.
        noun: What the jobs are called, in the plural.
    """

    def __init__(
        self, console: Console, jobs: Sequence[Job], finished: Sequence[Job], noun: str
    ) -> None:
        self._done = {job.job_id: job.total for job in finished}
        self._bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._whole = self.progress.add_task(
            f"[bold]all {noun}", total=sum(job.total for job in jobs)
        )
        self._update_whole()

    def __enter__(self) -> RichReporter:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def show(self, event: events.Event) -> None:
        """Move the bars to what has happened."""
        job, name = event.job, event.job.job_id
        if isinstance(event, events.Started):
            self._bars[name] = self.progress.add_task(escape(job.name), total=job.total)
        elif isinstance(event, events.Progress):
            self._done[name] = event.done
            self.progress.update(self._bars[name], completed=event.done)
        elif isinstance(event, events.Message):
            self.progress.console.print(f"{name}: {event.text}", markup=False, highlight=False)
        else:
            self._done[name] = job.total
            self.progress.remove_task(self._bars.pop(name))
            if isinstance(event, events.Failed):
                self.progress.console.print(
                    f"failed: {name}: {event.error}", markup=False, highlight=False
                )
        self._update_whole()

    def _update_whole(self) -> None:
        self.progress.update(self._whole, completed=sum(self._done.values()))


class PlainReporter:
    """A line for each job that ends, for output that is no terminal.

    Args:
        console: Where the lines go.
        jobs: Jobs of the run.
        finished: Those that were finished before.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], finished: Sequence[Job]) -> None:
        self._console = console
        self._total = len(jobs)
        self._ended = len(finished)
        self._began: dict[str, float] = {}

    def show(self, event: events.Event) -> None:
        """Say so where a job has ended."""
        if isinstance(event, events.Started):
            self._began[event.job.job_id] = time.monotonic()
        if isinstance(event, events.Message):
            said = f"{event.job.job_id}: {event.text}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)
        if not isinstance(event, events.Finished | events.Failed):
            return
        self._ended += 1
        seconds = time.monotonic() - self._began[event.job.job_id]
        how = f"failed: {event.error}" if isinstance(event, events.Failed) else "finished"
        line = f"[{self._ended}/{self._total}] {event.job.job_id}: {how} ({seconds:.1f} s)"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class NullReporter:
    """Shows nothing."""

    def show(self, event: events.Event) -> None:
        """Do so."""
        del event
