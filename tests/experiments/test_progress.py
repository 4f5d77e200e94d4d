import io

from rich.console import Console

from spangym.experiments.runner import events
from spangym.experiments.runner.progress import RichReporter
from spangym.experiments.studies.study import Study


def test_a_bar_for_each_running_trial_and_one_for_the_whole(tiny: Study):
    trials = tiny.trials()
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with RichReporter(screen, trials, trials[:1], "trials") as reporter:
        reporter.show(events.Started(trials[1]))
        reporter.show(events.Started(trials[2]))
        reporter.show(events.Progress(trials[1], 40))
        bars = {task.description: task for task in reporter.progress.tasks}
        labels = [f"SpanControl-v0 {name}" for name in ("pooled seed 1", "dqn seed 0")]
        assert set(bars) == {"[bold]all trials", *labels}
        assert bars[labels[0]].completed == 40
        assert bars["[bold]all trials"].completed == 72 + 40
        assert bars["[bold]all trials"].total == 4 * 72 + 14 * 8
        reporter.show(events.Finished(trials[1]))
        reporter.show(events.Failed(trials[2], "ValueError: no"))
        assert [task.description for task in reporter.progress.tasks] == ["[bold]all trials"]
        assert reporter.progress.tasks[0].completed == 3 * 72
    assert isinstance(screen.file, io.StringIO)
    assert "failed: SpanControl-v0/dqn/seed-0: ValueError: no" in screen.file.getvalue()
