"""``spangym compare``: run a study."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spangym.experiments.cli.running import (
    AddressOption,
    CheckpointOption,
    ExecutorName,
    ExecutorOption,
    JobsOption,
    QuietOption,
    make_executor,
    resumable,
    run_unfinished,
)
from spangym.experiments.reports.terminal_tables import make_tables
from spangym.experiments.reports.write_outputs import check_startable, conclude
from spangym.experiments.runner.executor import Executor
from spangym.experiments.runner.hardware import usable_cores
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.studies.load_study import change_study, load_study, resolve
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.run_dir import RunFolder
from spangym.utils.errors import UserError


def compare(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A TOML file or a shipped study; else quickstart."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of training seeds, counted from 0.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each training.")] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this agent with the references (may be repeated): one of the "
            "study's, another shipped one, or module:Class of your own."
        ),
    ] = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    jobs: JobsOption = None,
    device: Annotated[
        str | None, typer.Option(help="Where the layers run, as torch names it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; else runs/STUDY. Trials that are finished in it are not "
            "run again, those that were interrupted go on."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, by its own study; with --steps all trainings "
            "are made longer."
        ),
    ] = None,
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    quiet: QuietOption = False,
) -> None:
    """Train and evaluate the agents of a study, and write down how they compare."""
    runs = make_executor(executor, address, jobs, checkpoint_seconds)
    if resume is None:
        chosen = change_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            steps=steps,
            agents=agent or (),
            device=device,
        )
        check_startable(chosen)
        folder = RunFolder(out or Path("runs", chosen.name))
        folder.plan(chosen, make_manifest(chosen, sys.argv, jobs or usable_cores()))
    else:
        if any(each is not None for each in (study, seeds, agent, device, out)):
            raise UserError(
                "--resume goes on with the folder's own study: besides it give only --jobs, "
                "--executor, --address, --checkpoint-seconds, --quiet, and --steps to train longer"
            )
        folder = RunFolder.open(resume)
        _resume(folder, jobs or usable_cores(), steps)
    _run(folder, runs, quiet)


def _resume(folder: RunFolder, jobs: int, steps: int | None) -> None:
    """Go on with the study of an earlier run, perhaps longer."""
    folder.check_writable()
    stored = folder.study()
    if steps is not None and steps < stored.steps:
        raise UserError(
            f"--steps may only be raised: the run in {str(folder.path)!r} has {stored.steps}"
        )
    try:
        study = resolve(_lengthened(stored, steps))
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    manifest = make_manifest(study, sys.argv, jobs)
    _check_same_content(folder, manifest)
    before = [(trial, folder.folder_of(trial)) for trial in folder.jobs()]
    folder.plan(study, manifest)
    if study.steps != stored.steps:
        folder.lengthen(before)


def _check_same_content(folder: RunFolder, now: dict[str, Any]) -> None:
    """Refuse to go on with a run that would have to begin anew."""
    then = folder.manifest()
    if then["content_sha256"] != now["content_sha256"]:
        raise UserError(
            f"the run in {str(folder.path)!r} read other content than there is now: resume it with "
            "the Python and the files that its manifest.json and study.toml name"
        )
    if then.get("weights_sha256") != now["weights_sha256"]:
        raise UserError(
            f"the run in {str(folder.path)!r} ran other weights than there are now: run the study "
            "again in another folder"
        )


def _lengthened(study: Study, steps: int | None) -> Study:
    if steps is None or steps == study.steps:
        return study
    return replace(study, steps=steps, earlier_steps=(*study.earlier_steps, study.steps))


def _run(folder: RunFolder, executor: Executor, quiet: bool) -> None:
    # Where there is no terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 120, quiet=quiet)
    with resumable(folder):
        failed = run_unfinished(folder, executor, console, quiet)
        rows, statistics = conclude(folder, failed)
    for table in make_tables(rows, statistics):
        console.print(table)
    for remark in statistics.remarks:
        console.print(remark, style="dim", markup=False, highlight=False)
    for name, error in failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    console.print(statistics.verdict, markup=False, highlight=False)
    where = f"(open report.html; tensorboard --logdir {folder.path})"
    console.print(f"written: {folder.path} {where}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
