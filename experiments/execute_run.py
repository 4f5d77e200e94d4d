"""Runs the jobs of a run folder and writes its outputs, for the command line and for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from spangym.envs.tables.identity import identity_hash
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.write_outputs import write_outputs
from spangym.experiments.runner.folder_watch import FolderWatch
from spangym.experiments.runner.job import Event, Executor
from spangym.experiments.runner.progress import show_progress
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.run_job import run_jobs
from spangym.experiments.runner.workload import Workload
from spangym.experiments.tables.build_tables import build_tables, tables_of
from spangym.utils.errors import RunError, UserError
from spangym.utils.text import printable


def execute_run(
    folder: RunDir[Any, Any], work: Workload, executor: Executor, console: Console
) -> PlotData:
    """Announce the work, run the unfinished jobs with a progress display, and write the outputs.

    Returns:
        The results; ``results.failed`` holds the jobs that failed.

    Raises:
        UserError: The folder is damaged.
        RunError: Every job failed, a file cannot be written, or the folder was moved.
        KeyboardInterrupt: Ctrl-C; the message says how many jobs are finished and how to resume.
    """
    console.print(str(work), markup=False, highlight=False, soft_wrap=True)
    watch = FolderWatch(folder.path, "spangym", folder.kind.command, "--resume")
    try:
        return _execute(folder, executor, console, watch)
    except (OSError, UserError, KeyboardInterrupt):
        if not (moved := watch.describe_move()):
            raise
        raise RunError(moved) from None
    finally:
        watch.close()


def _execute(
    folder: RunDir[Any, Any], executor: Executor, console: Console, watch: FolderWatch
) -> PlotData:
    jobs = folder.jobs()
    try:
        finished = folder.finished()
        if finished:
            console.print(f"{len(finished)} of {len(jobs)} jobs are finished already")
        for change in folder.changes():
            line = printable(f"resumed with a change: {change}")
            console.print(line, markup=False, highlight=False)
        _make_tables(folder, executor, console)
        with show_progress(console, jobs, finished) as show:

            def show_in_place(event: Event) -> None:
                watch.check()
                show(event)

            failed = run_jobs(folder.unfinished(), executor, show_in_place)
        watch.check()
        if len(failed) == len(jobs):
            raise RunError(f"every job failed, the first with: {next(iter(failed.values()))}")
        return write_outputs(folder, failed)
    except KeyboardInterrupt as interrupt:
        watch.check()
        if interrupt.args:
            raise
        raise KeyboardInterrupt(
            f"interrupted: {len(folder.finished())} of {len(jobs)} jobs are finished; "
            f"resume with: {folder.resume_command}"
        ) from None
    except OSError as error:
        watch.check()
        cause = f"the results cannot be written: {error.strerror or error}"
        try:
            Path.cwd()
        except OSError:
            cause = "the working folder was deleted during the run: change to another one"
            # A relative name would be of no use.
            folder = RunDir(folder.path, folder.kind)
        raise RunError(
            f"{cause}; finished jobs are kept, resume with: {folder.resume_command}"
        ) from None


def _make_tables(folder: RunDir[Any, Any], executor: Executor, console: Console) -> None:
    """Make the tables that unfinished jobs need, and name them in the manifest."""
    builds = tables_of(job for job, _ in folder.unfinished())
    paths = build_tables(builds, executor, console, folder.resume_command)
    if builds:
        folder.add_tables(
            {
                path.name: identity_hash(build.request.identity)
                for path, build in zip(paths, builds, strict=True)
            }
        )
