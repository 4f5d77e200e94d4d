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
    QuietOption,
    WorkersOption,
    make_executor,
    report_interruption,
    run_pending_jobs,
)
from spangym.experiments.reports.terminal_tables import rich_comparison_tables
from spangym.experiments.reports.write_outputs import smoke_test, write_outputs
from spangym.experiments.runner.executor import Executor
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.studies.load_study import load_study, normalize_study, override_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.errors import UserError


def compare(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A TOML file or a shipped study; else quickstart."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of training seeds, counted from 0.")
    ] = None,
    total_timesteps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each training.")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this agent with the baselines (may be repeated): one of the "
            "study's, another shipped one, or module:Class of your own."
        ),
    ] = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    workers: WorkersOption = None,
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
            help="Go on with the run in this folder, by its own study; with --total-timesteps all trainings "
            "are made longer."
        ),
    ] = None,
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    quiet: QuietOption = False,
) -> None:
    """Train and evaluate the agents of a study, and write down how they compare."""
    runs = make_executor(executor, address, workers, checkpoint_seconds)
    if resume is None:
        chosen = override_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            total_timesteps=total_timesteps,
            agents=agent or (),
            device=device,
        )
        smoke_test(chosen)
        folder = RunDir(out or Path("runs", chosen.name))
        folder.create(chosen, make_manifest(chosen, sys.argv, workers or available_cpus()))
    else:
        if any(each is not None for each in (study, seeds, agent, device, out)):
            raise UserError(
                "--resume goes on with the folder's own study: besides it give only --workers, "
                "--executor, --address, --checkpoint-seconds, --quiet, and --total-timesteps to train longer"
            )
        folder = RunDir.open(resume)
        _resume(folder, workers or available_cpus(), total_timesteps)
    _run(folder, runs, quiet)


def _resume(folder: RunDir, workers: int, total_timesteps: int | None) -> None:
    """Go on with the study of an earlier run, perhaps longer."""
    folder.check_writable()
    stored = folder.study()
    if total_timesteps is not None and total_timesteps < stored.total_timesteps:
        raise UserError(
            f"--total-timesteps may only be raised: the run in {str(folder.path)!r} has {stored.total_timesteps}"
        )
    try:
        study = normalize_study(_lengthened(stored, total_timesteps))
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    manifest = make_manifest(study, sys.argv, workers)
    _check_same_content(folder, manifest)
    before = [(trial, folder.folder_of(trial)) for trial in folder.jobs()]
    folder.create(study, manifest)
    if study.total_timesteps != stored.total_timesteps:
        folder.seed_checkpoints_for_longer_training(before)


def _check_same_content(folder: RunDir, now: dict[str, Any]) -> None:
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


def _lengthened(study: Study, total_timesteps: int | None) -> Study:
    if total_timesteps is None or total_timesteps == study.total_timesteps:
        return study
    return replace(
        study,
        total_timesteps=total_timesteps,
        resumed_from_steps=(*study.resumed_from_steps, study.total_timesteps),
    )


def _run(folder: RunDir, executor: Executor, quiet: bool) -> None:
    # Where there is no terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 120, quiet=quiet)
    with report_interruption(folder):
        failed = run_pending_jobs(folder, executor, console, quiet)
        results, statistics = write_outputs(folder, failed)
    for table in rich_comparison_tables(results, statistics):
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
