import io

import pytest
from rich.console import Console

from spangym.experiments.runner.job import Failed, Finished, Progress, Started
from spangym.experiments.runner.notebook_progress import NotebookProgress
from spangym.experiments.runner.progress import ProgressBars
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.trial import trials_of


def test_a_bar_for_each_running_trial_and_one_for_the_whole(tiny: Study):
    trials = trials_of(tiny)
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    reporter = ProgressBars(screen, trials, trials[:1])
    with reporter.display:
        reporter.show(Started(trials[1]))
        reporter.show(Started(trials[2]))
        reporter.show(Progress(trials[1], 40))
        bars = {task.description: task for task in reporter.display.tasks}
        labels = [f"SpanControl-v0 {name}" for name in ("pooled seed 1", "dqn seed 0")]
        assert set(bars) == {"[bold]all jobs", *labels}
        assert bars[labels[0]].completed == 40
        assert bars["[bold]all jobs"].completed == 72 + 40
        assert bars["[bold]all jobs"].total == 4 * 72 + 14 * 8
        reporter.show(Finished(trials[1]))
        reporter.show(Failed(trials[2], "ValueError: no"))
        assert [task.description for task in reporter.display.tasks] == ["[bold]all jobs"]
        assert reporter.display.tasks[0].completed == 3 * 72
    assert isinstance(screen.file, io.StringIO)
    assert "failed: SpanControl-v0/dqn/seed-0: ValueError: no" in screen.file.getvalue()


class Handle:
    """Stands for the display of IPython."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, page: dict[str, str], raw: bool) -> None:
        assert raw
        assert not self.shown
        self.shown.append(page)

    def update(self, page: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(page)


def test_a_notebook_has_one_output_that_is_updated(tiny: Study, monkeypatch: pytest.MonkeyPatch):
    handle = Handle()
    monkeypatch.setattr("IPython.display.DisplayHandle", lambda: handle)
    trials = trials_of(tiny)
    reporter = NotebookProgress(trials, trials[:1])
    reporter.show(Started(trials[1]))
    reporter.show(Progress(trials[1], 40))
    reporter.update()
    page = handle.shown[-1]
    assert '<progress value="112" max="400">' in page["text/html"]
    assert (
        '<progress value="40" max="72"></progress> SpanControl-v0 pooled seed 1'
        in page["text/html"]
    )
    for _ in range(1000):
        reporter.show(Progress(trials[1], 41))
    assert len(handle.shown) < 20
    reporter.show(Failed(trials[1], "ValueError: <b>no</b>"))
    reporter.update()
    page = handle.shown[-1]
    assert page["text/plain"].splitlines()[0].startswith("2 of 18 jobs")
    assert page["text/plain"].endswith("ValueError: <b>no</b>")
    assert "&lt;b&gt;no" in page["text/html"]
    assert page["text/html"].count("<progress") == 1
