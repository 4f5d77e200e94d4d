import io

from rich.console import Console

from spangym.experiments.runner.job import Failed, Finished, Progress, Started
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
