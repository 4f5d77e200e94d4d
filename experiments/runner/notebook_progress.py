"""Progress of jobs in a notebook: one output that is updated in place, without widgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from spangym.experiments.runner.job import Event, Failed, Finished, Job, Message, Progress, Started
from spangym.utils.text import printable

_SECONDS_BETWEEN_UPDATES = 0.2
_BAR = Markup('<div><progress value="{done}" max="{total}"></progress> {text}</div>')
_LINE = Markup("<div>{text}</div>")


class NotebookProgress:
    """A bar for all jobs and one for each running job, below them messages and failures."""

    def __init__(self, jobs: Sequence[Job], finished: Sequence[Job]) -> None:
        # A notebook's kernel has IPython.
        from IPython.display import DisplayHandle

        self._handle = DisplayHandle()
        self._num_jobs, self._total = len(jobs), sum(job.total for job in jobs)
        self._ended, self._failed = len(finished), 0
        self._done = {job.job_id: job.total for job in finished}
        self._running: dict[str, Job] = {}
        self._lines: list[str] = []
        self._start_time, self._last_update = time.monotonic(), 0.0
        self._handle.display(self._page(), raw=True)

    def show(self, event: Event) -> None:
        """Display an event."""
        job, job_id = event.job, event.job.job_id
        match event:
            case Started():
                self._running[job_id] = job
            case Progress():
                self._done[job_id] = event.done
            case Message():
                self._lines.append(f"{job_id}: {event.text}")
            case Finished() | Failed():
                self._done[job_id] = job.total
                self._running.pop(job_id, None)
                self._ended += 1
                if isinstance(event, Failed):
                    self._failed += 1
                    self._lines.append(f"failed: {job_id}: {event.error}")
        if time.monotonic() - self._last_update > _SECONDS_BETWEEN_UPDATES:
            self.update()

    def update(self) -> None:
        """Bring the output up to date."""
        self._last_update = time.monotonic()
        self._handle.update(self._page(), raw=True)

    def _page(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self._start_time)
        counts = f"{self._ended} of {self._num_jobs} jobs, {seconds // 60}:{seconds % 60:02}"
        if self._failed:
            counts += f", {self._failed} failed"
        bars = [(sum(self._done.values()), self._total, counts)]
        for job_id, job in self._running.items():
            bars.append((self._done.get(job_id, 0), job.total, printable(job.name)))
        lines = [*map(printable, self._lines)]
        html = [
            *(_BAR.format(done=done, total=total, text=text) for done, total, text in bars),
            *(_LINE.format(text=line) for line in lines),
        ]
        return {"text/html": "".join(html), "text/plain": "\n".join([counts, *lines])}
