"""Running the jobs of a folder from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from spangym.experiments.cli.app import INTERRUPTED
from spangym.experiments.cli.options import ExecutorName
from spangym.experiments.cli.terminal import echo, make_console
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.result_tables import footnotes, headlines, rich_result_tables
from spangym.experiments.reports.write_outputs import write_outputs
from spangym.experiments.runner.folder_watch import FolderWatch
from spangym.experiments.runner.job import Event, Executor
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import available_cpus
from spangym.experiments.runner.progress import show_progress
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.run_job import run_jobs
from spangym.experiments.runner.workload import Workload, machine_memory
from spangym.utils.errors import UserError
from spangym.utils.text import printable, shell_join


def make_executor(
    name: ExecutorName, address: str | None, workers: int | None, checkpoint_seconds: float
) -> Executor:
    """Make the executor that the options name; UserError if they contradict each other."""
    if name == "local":
        if address is not None:
            raise UserError("--address names a Ray cluster: add --executor ray")
        return LocalExecutor(workers or available_cpus(), checkpoint_seconds)
    # Ray is an optional extra.
    from spangym.experiments.runner.ray_executor import RayExecutor

    return RayExecutor(address, workers, checkpoint_seconds)


def check_memory(work: Workload, executor: ExecutorName) -> None:
    """UserError if a study is too large; nodes of a cluster may have more memory than this one."""
    work.check(machine_memory() if executor == "local" else None)


def run_and_report(
    folder: RunDir[Any, Any], work: Workload, executor: Executor, quiet: bool
) -> None:
    """Announce the work, run the unfinished jobs, write the outputs and print the results.

    Raises:
        UserError: The folder is damaged.
        typer.Exit: Ctrl-C, a job failed, a file cannot be written, or the folder was moved; the
            reason is printed.
    """
    text = str(work)
    make_console(quiet=quiet).print(text, markup=False, highlight=False, soft_wrap=True)
    watch = FolderWatch(folder.path, "spangym", folder.kind.command, "--resume")
    try:
        _run_and_report(folder, executor, quiet, watch)
    except (OSError, UserError, KeyboardInterrupt):
        if not (moved := watch.describe_move()):
            raise
        echo(f"spangym: {moved}", error=True)
        raise typer.Exit(1) from None
    finally:
        watch.close()


def _run_and_report(
    folder: RunDir[Any, Any], executor: Executor, quiet: bool, watch: FolderWatch
) -> None:
    console = make_console(quiet=quiet)
    jobs = folder.jobs()
    try:
        finished = folder.finished()
        if finished:
            console.print(f"{len(finished)} of {len(jobs)} jobs are finished already")
        for change in folder.changes():
            line = printable(f"resumed with a change: {change}")
            console.print(line, markup=False, highlight=False)
        with show_progress(console, jobs, finished) as show:

            def show_in_place(event: Event) -> None:
                watch.check()
                show(event)

            failed = run_jobs(folder.unfinished(), executor, show_in_place)
        watch.check()
        if len(failed) == len(jobs):
            error = next(iter(failed.values()))
            echo(f"spangym: every job failed, the first with: {error}", error=True)
            raise typer.Exit(1)
        data = write_outputs(folder, failed)
    except KeyboardInterrupt:
        watch.check()
        echo(
            f"interrupted: {len(folder.finished())} of {len(jobs)} jobs are finished; "
            f"resume with: {folder.resume_command}",
            error=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        watch.check()
        cause = f"the results cannot be written: {error.strerror or error}"
        try:
            Path.cwd()
        except OSError:
            cause = "the working folder was deleted during the run: change to another one"
            # A relative name would be of no use.
            folder = RunDir(folder.path, folder.kind)
        echo(
            f"spangym: {cause}; finished jobs are kept, resume with: {folder.resume_command}",
            error=True,
        )
        raise typer.Exit(1) from None
    _print_results(console, folder, data, failed)


def _print_results(
    console: Console, folder: RunDir[Any, Any], data: PlotData, failed: Mapping[str, str]
) -> None:
    for table in rich_result_tables(data):
        console.print(table)
    for note in footnotes(data):
        console.print(printable(note), style="dim", markup=False, highlight=False)
    stopped = {
        f"{group}, seed {seed}": f"stopped: {reason}"
        for group, seed, reason in data.results.stopped
    }
    for name, error in (*failed.items(), *stopped.items()):
        echo(f"failed: {name}: {error}", error=True)
    for line in headlines(data):
        console.print(printable(line), markup=False, highlight=False)
    command = shell_join(["tensorboard", "--logdir", folder.name])
    line = f"written: {folder.name} (open report.html; {command})"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if failed or stopped:
        raise typer.Exit(1)
