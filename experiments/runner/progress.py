"""Progress of jobs, as bars in a terminal or notebook, or as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Display

from spangym.experiments.runner.job import Event, Failed, Finished, Job, Message, Progress, Started
from spangym.experiments.runner.notebook_progress import NotebookProgress
from spangym.utils.streams import in_notebook
from spangym.utils.text import printable


@contextlib.contextmanager
def show_progress(
    console: Console, jobs: Sequence[Job], finished: Sequence[Job]
) -> Iterator[Callable[[Event], None]]:
    """Display progress: bars in a terminal or notebook, else lines; nothing on a quiet console.

    Yields:
        The function that displays an event.
    """
    if in_notebook() and not console.quiet:
        output = NotebookProgress(jobs, finished)
        try:
            yield output.show
        finally:
            output.update()
    elif console.is_terminal and not console.quiet:
        bars = ProgressBars(console, jobs, finished)
        with bars.display:
            yield bars.show
    else:
        yield ProgressLines(console, jobs, finished).show


class ProgressBars:
    """A progress bar for each running job and one for all jobs, in the context ``display``."""

    def __init__(self, console: Console, jobs: Sequence[Job], finished: Sequence[Job]) -> None:
        self.display = Display(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._done = {job.job_id: job.total for job in finished}
        self._tasks: dict[str, TaskID] = {}
        total = sum(job.total for job in jobs)
        self._all_jobs = self.display.add_task(
            "[bold]all jobs", total=total, completed=sum(self._done.values())
        )

    def show(self, event: Event) -> None:
        """Display an event."""
        job, job_id = event.job, event.job.job_id
        match event:
            case Started():
                self._tasks[job_id] = self.display.add_task(
                    escape(printable(job.name)), total=job.total
                )
            case Progress():
                self._done[job_id] = event.done
                self.display.update(self._tasks[job_id], completed=event.done)
            case Message():
                self._print(f"{job_id}: {event.text}")
            case Finished() | Failed():
                self._done[job_id] = job.total
                self.display.remove_task(self._tasks.pop(job_id))
                if isinstance(event, Failed):
                    self._print(f"failed: {job_id}: {event.error}")
        self.display.update(self._all_jobs, completed=sum(self._done.values()))

    def _print(self, line: str) -> None:
        self.display.console.print(printable(line), markup=False, highlight=False)


class ProgressLines:
    """One line for each finished or failed job, for output that is not a terminal."""

    def __init__(self, console: Console, jobs: Sequence[Job], finished: Sequence[Job]) -> None:
        self._console = console
        self._total = len(jobs)
        self._ended = len(finished)
        self._start_times: dict[str, float] = {}

    def show(self, event: Event) -> None:
        """Print messages and the end of jobs."""
        job_id = event.job.job_id
        match event:
            case Started():
                self._start_times[job_id] = time.monotonic()
            case Message():
                self._print(f"{job_id}: {event.text}")
            case Finished() | Failed():
                self._ended += 1
                seconds = time.monotonic() - self._start_times[job_id]
                end = f"failed: {event.error}" if isinstance(event, Failed) else "finished"
                self._print(f"[{self._ended}/{self._total}] {job_id}: {end} ({seconds:.1f} s)")
            case Progress():
                pass

    def _print(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
