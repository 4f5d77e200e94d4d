"""How a comparison goes on, as bars in a terminal or as plain lines."""

from __future__ import annotations

import time
from types import TracebackType

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

from . import events
from .studies import Trial


class BarsView:
    """A bar for each running trial and one for the whole, in decisions taken.

    Args:
        console: Terminal to draw on.
        trials: Trials of the run.
        finished: Those that were finished before.
    """

    def __init__(self, console: Console, trials: list[Trial], finished: list[Trial]) -> None:
        self._steps = {trial.name: trial.decisions for trial in finished}
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
            "[bold]all trials", total=sum(trial.decisions for trial in trials)
        )
        self._update_whole()

    def __enter__(self) -> BarsView:
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
        trial, name = event.trial, event.trial.name
        if isinstance(event, events.Started):
            label = escape(f"{trial.environment.label} {trial.agent.label} seed {trial.seed}")
            self._bars[name] = self.progress.add_task(label, total=trial.decisions)
        elif isinstance(event, events.Progress):
            self._steps[name] = event.steps
            self.progress.update(self._bars[name], completed=event.steps)
        elif isinstance(event, events.Noted):
            self.progress.console.print(f"{name}: {event.text}", markup=False, highlight=False)
        else:
            self._steps[name] = trial.decisions
            self.progress.remove_task(self._bars.pop(name))
            if isinstance(event, events.Failed):
                self.progress.console.print(
                    f"failed: {name}: {event.error}", markup=False, highlight=False
                )
        self._update_whole()

    def _update_whole(self) -> None:
        self.progress.update(self._whole, completed=sum(self._steps.values()))


class LinesView:
    """A line for each trial that ends, for output that is no terminal.

    Args:
        console: Where the lines go.
        trials: Trials of the run.
        finished: Those that were finished before.
    """

    def __init__(self, console: Console, trials: list[Trial], finished: list[Trial]) -> None:
        self._console = console
        self._total = len(trials)
        self._ended = len(finished)
        self._began: dict[str, float] = {}

    def __enter__(self) -> LinesView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: events.Event) -> None:
        """Say so where a trial has ended."""
        if isinstance(event, events.Started):
            self._began[event.trial.name] = time.monotonic()
        if isinstance(event, events.Noted):
            said = f"{event.trial.name}: {event.text}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)
        if not isinstance(event, events.Finished | events.Failed):
            return
        self._ended += 1
        seconds = time.monotonic() - self._began[event.trial.name]
        how = f"failed: {event.error}" if isinstance(event, events.Failed) else "finished"
        line = f"[{self._ended}/{self._total}] {event.trial.name}: {how} ({seconds:.1f} s)"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class QuietView:
    """Shows nothing."""

    def show(self, event: events.Event) -> None:
        """Do so."""
        del event
