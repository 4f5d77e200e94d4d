"""What commands that run jobs have in common: who runs them, how it is shown, how it ends early."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from spangym.experiments.runner.executor import Executor
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.runner.job_dir import JobDir
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.progress import make_reporter
from spangym.experiments.runner.run import run_jobs
from spangym.utils.errors import UserError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class ExecutorName(StrEnum):
    """What runs the jobs."""

    LOCAL = "local"
    RAY = "ray"


ExecutorOption = Annotated[
    ExecutorName, typer.Option(help="What runs them: processes here, or a Ray cluster.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster, HOST:PORT; else one is started on this machine."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="How many run side by side on this machine; else one a core."),
]
CheckpointOption = Annotated[
    float, typer.Option(min=0, help="Least time between two checkpoints of a training.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but what fails.")]


def make_executor(
    name: ExecutorName, address: str | None, workers: int | None, checkpoint_seconds: float
) -> Executor:
    """What runs the jobs, as options say.

    Raises:
        UserError: The options do not go together, or Ray is not installed.
    """
    if name is ExecutorName.LOCAL:
        if address is not None:
            raise UserError("--address is of a Ray cluster: give --executor ray, too")
        return LocalExecutor(workers or available_cpus(), checkpoint_seconds)
    # Imported here: it is an extra, and takes a while.
    from spangym.experiments.runner.ray_executor import RayExecutor

    return RayExecutor(address, workers, checkpoint_seconds)


def run_pending_jobs(
    folder: JobDir[Any], executor: Executor, console: Console, quiet: bool
) -> dict[str, str]:
    """Run the jobs of a folder that are not finished, and show how that goes on.

    Returns:
        Names of the jobs that failed, each with its error in a line.

    Raises:
        UserError: The folder is damaged.
        typer.Exit: Every job failed, which is printed.
    """
    jobs, finished, noun = folder.jobs(), folder.finished(), folder.job_noun
    if finished:
        console.print(f"{len(finished)} of {len(jobs)} {noun}s are finished already")
    with make_reporter(console, jobs, finished, f"{noun}s", quiet) as reporter:
        failed = run_jobs(folder.unfinished(), executor, reporter)
    if len(failed) == len(jobs):
        first = next(iter(failed.values()))
        print(f"spangym: every {noun} failed, the first by: {first}", file=sys.stderr)
        raise typer.Exit(1)
    return failed


@contextlib.contextmanager
def report_interruption(folder: JobDir[Any]) -> Iterator[None]:
    """Where what is done in it ends early, say what is kept and how to go on.

    Raises:
        typer.Exit: By Ctrl-C, or because a file cannot be written.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"interrupted: {len(folder.finished())} of {len(folder.jobs())} {folder.job_noun}s are "
            f"finished and kept; go on with: {folder.resume_command}",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        print(
            f"spangym: what the {folder.noun} says cannot be written: {error.strerror or error}; "
            f"finished {folder.job_noun}s are kept, go on with: {folder.resume_command}",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
