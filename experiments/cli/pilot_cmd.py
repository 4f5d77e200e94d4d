"""``spangym pilot``: train models while their spans are under control."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
from spangym.experiments.runner.executor import Executor
from spangym.experiments.runner.hardware import available_cpus
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.runner.manifest import describe_run
from spangym.utils.errors import UserError


class TaskName(StrEnum):
    """What models learn."""

    SPEECH = "speech"
    TEXT = "text"


def pilot(
    task: Annotated[TaskName | None, typer.Argument(help="What the models learn.")] = None,
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="A TOML file or a shipped study: quick, laws, voices or full for speech, quick or "
            "full for text; else quick.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your own recordings with transcripts (.wav or .flac, each with a .txt, or one "
            "CSV), or your own texts."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Train only this variant of the study beside the first (repeatable)."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, counted from 0.")
    ] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates of each model.")] = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    workers: WorkersOption = None,
    device: Annotated[
        str | None, typer.Option(help="Where the models train, as torch names it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; else runs/STUDY. Trainings that are finished in it are "
            "not run again, those that were interrupted go on."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the pilot in this folder, by its own study."),
    ] = None,
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    quiet: QuietOption = False,
) -> None:
    r"""Train models whose attention spans are under control, beside plain attention.

    Speech needs an extra: pip install 'spangym\[speech]'.
    """
    from spangym.experiments.pilot.load_pilot_study import (
        load_pilot_study,
        normalize_pilot_study,
        override_pilot_study,
    )
    from spangym.experiments.pilot.pilot_folder import PilotFolder
    from spangym.experiments.pilot.pilot_tasks import fingerprint, validate_task
    from spangym.experiments.runner.fingerprint import DatasetHashes

    runs = make_executor(executor, address, workers, checkpoint_seconds)
    if resume is None:
        if task is None:
            raise UserError("name what the models learn: `spangym pilot speech`, or `text`")
        chosen = override_pilot_study(
            load_pilot_study("quick" if study is None else study, task.value),
            seeds=seeds,
            updates=updates,
            variants=variant or (),
            data=data,
            device=device,
        )
        folder = PilotFolder(out or Path("runs", chosen.name))
    else:
        given = (task, study, data, variant, seeds, updates, device, out)
        if any(each is not None for each in given):
            raise UserError(
                "--resume goes on with the folder's own study: besides it give only --workers, "
                "--executor, --address, --checkpoint-seconds and --quiet"
            )
        folder = PilotFolder.open(resume)
        folder.check_writable()
        try:
            chosen = normalize_pilot_study(folder.study())
        except UserError as error:
            raise UserError(f"{folder.path / 'pilot.toml'}: {error}") from error
    try:
        # Before the trainings begin: what is spoken is spoken once.
        validate_task(chosen)
        content = fingerprint(chosen, DatasetHashes())
    except ValueError as error:
        raise UserError(str(error)) from error
    manifest = describe_run(sys.argv, workers or available_cpus(), chosen.device)
    folder.make(chosen, {**manifest, "content_sha256": content})
    _run(folder.path, runs, quiet)


def _run(path: Path, executor: Executor, quiet: bool) -> None:
    from spangym.experiments.pilot.conclusion import conclude
    from spangym.experiments.pilot.pilot_folder import PilotFolder
    from spangym.experiments.pilot.pilot_tables import rich_pilot_tables

    folder = PilotFolder(path)
    console = Console(width=None if sys.stdout.isatty() else 120, quiet=quiet)
    with report_interruption(folder):
        failed = run_pending_jobs(folder, executor, console, quiet)
        concluded = conclude(folder, failed)
    for table in rich_pilot_tables(concluded.rows, concluded.summary):
        console.print(table)
    for remark in concluded.summary.remarks:
        console.print(remark, style="dim", markup=False, highlight=False)
    for name, error in (*failed.items(), *concluded.stopped.items()):
        print(f"failed: {name}: {error}", file=sys.stderr)
    console.print(concluded.summary.verdict, markup=False, highlight=False)
    where = f"(open report.html; tensorboard --logdir {path})"
    console.print(f"written: {path} {where}", markup=False, highlight=False, soft_wrap=True)
    if failed or concluded.stopped:
        raise typer.Exit(1)
