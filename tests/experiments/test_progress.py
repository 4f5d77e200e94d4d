import io

from rich.console import Console

from spangym.experiments import workers
from spangym.experiments.progress import BarsView
from spangym.experiments.studies import Study


def test_a_bar_for_each_running_trial_and_one_for_the_whole(tiny: Study):
    trials = tiny.trials()
    decisions = {trial.name: 100 for trial in trials}
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with BarsView(screen, decisions, finished=trials[:1]) as view:
        view.show(workers.Started(trials[1]))
        view.show(workers.Started(trials[2]))
        view.show(workers.Progress(trials[1], 40))
        bars = {task.description: task for task in view.progress.tasks}
        assert set(bars) == {"[bold]all trials", "pooled seed 1", "dqn seed 0"}
        assert bars["pooled seed 1"].completed == 40
        assert bars["[bold]all trials"].completed == 100 + 40
        assert bars["[bold]all trials"].total == 100 * len(trials)
        view.show(workers.Finished(trials[1]))
        view.show(workers.Failed(trials[2], "ValueError: no"))
        assert [task.description for task in view.progress.tasks] == ["[bold]all trials"]
        assert view.progress.tasks[0].completed == 300
    assert isinstance(screen.file, io.StringIO)
    assert "failed: dqn/seed-0: ValueError: no" in screen.file.getvalue()
