"""Running the jobs of a folder from the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console

from spangym.experiments.cli.app import INTERRUPTED
from spangym.experiments.cli.options import ExecutorName
from spangym.experiments.cli.print_results import print_results
from spangym.experiments.cli.terminal import echo, make_console
from spangym.experiments.execute_run import execute_run
from spangym.experiments.runner.job import Executor
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import available_cpus
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.run_plan import describe_time, plan_table
from spangym.experiments.runner.workload import Workload, machine_memory
from spangym.experiments.tables.build_tables import TableBuild, build_tables, tables_of
from spangym.utils.errors import RunError, UserError
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


def make_tables(builds: Sequence[TableBuild], executor: Executor, console: Console) -> None:
    """Make the tables that are missing; a failure or Ctrl-C ends the command with a message."""
    with _failures_reported():
        build_tables(builds, executor, console, shell_join(["spangym", *sys.argv[1:]]))


def memory_limit(executor: ExecutorName) -> int | None:
    """Return the memory that bounds a trial; None if nodes of a cluster may have more."""
    return machine_memory() if executor == "local" else None


def print_plan(
    folder: RunDir[Any, Any],
    study: Any,
    work: Workload,
    num_workers: int,
    least_seconds: Callable[[Sequence[Any]], Sequence[float]] | None = None,
) -> None:
    """Print the jobs and tables of a study and an estimate of their time; nothing is written.

    Raises:
        UserError: The folder holds another study, or cannot be written.
    """
    console = make_console()
    plan = folder.plan(study)
    console.print(plan_table(plan))
    time = describe_time(plan, num_workers, least_seconds)
    states = ", ".join(
        f"{sum(each.state == state for each in plan):,} {words}"
        for state, words in (("finished", "finished"), ("resume", "to resume"), ("run", "to run"))
    )
    tables = tables_of(each.job for each in plan if each.state != "finished")
    lines = [each.describe_plan(num_workers) for each in tables]
    lines += [str(work), f"{states}, in {folder.name}", time, "dry run: nothing is written"]
    for line in lines:
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def run_and_report(
    folder: RunDir[Any, Any], work: Workload, executor: Executor, quiet: bool
) -> None:
    """Run the unfinished jobs, see `execute_run`, and print the results.

    Raises:
        UserError: The folder is damaged.
        typer.Exit: Ctrl-C, a job failed, a file cannot be written, or the folder was moved; the
            reason is printed.
    """
    console = make_console(quiet=quiet)
    with _failures_reported():
        data = execute_run(folder, work, executor, console)
    succeeded = print_results(console, data)
    command = shell_join(["tensorboard", "--logdir", folder.name])
    line = f"written: {folder.name} (open report.html; {command})"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
    if not succeeded:
        raise typer.Exit(1)


@contextlib.contextmanager
def _failures_reported() -> Iterator[None]:
    """Print why jobs ended early, and end the command."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:
            raise
        echo(interrupt, error=True)
        raise typer.Exit(INTERRUPTED) from None
    except RunError as error:
        echo(f"spangym: {error}", error=True)
        raise typer.Exit(1) from None
