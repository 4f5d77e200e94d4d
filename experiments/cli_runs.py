"""Commands about runs: ``spangym compare``, ``curves`` and ``validate``."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from .comparison import check_startable, conclude, decisions_by_trial, notes, run_comparison
from .curves import FIGURE, draw_curves
from .errors import UserError
from .machine import usable_cores
from .manifest import make_manifest
from .progress import BarsView, LinesView
from .run_folder import RunFolder, resume_command
from .studies import Study
from .study_reading import change_study, load_study, resolve
from .table import make_table
from .trial import CHECKPOINT_SECONDS

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


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
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trials side by side; else one a core.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where the layers run, as torch names it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; else runs/STUDY-TIME.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder: trials that were interrupted go on from their "
            "last checkpoint; with --steps all are trained longer."
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Least time between two checkpoints of a training.")
    ] = CHECKPOINT_SECONDS,
) -> None:
    """Train and evaluate the agents of a study, and write down how they compare."""
    jobs = jobs or usable_cores()
    # Where there is no terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 120)
    if resume is None:
        chosen = change_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            steps=steps,
            agents=agent or (),
            device=device,
        )
        check_startable(chosen)
        path = out or Path("runs", f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}")
        folder = RunFolder.create(path, chosen, make_manifest(chosen, sys.argv, jobs))
    else:
        if any(each is not None for each in (study, seeds, agent, device, out)):
            raise UserError(
                "--resume goes on with the folder's own study: besides it give only --jobs, "
                "--checkpoint-seconds, and --steps to train longer"
            )
        folder = RunFolder.open(resume)
        chosen = _resume(folder, jobs, steps)
    _run(folder, chosen, jobs, console, checkpoint_seconds)


def curves(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
) -> None:
    """Redraw the figures of a run from its stored rows; trains nothing."""
    run = RunFolder.open(folder)
    run.check_writable()
    study = run.study()
    finished = run.finished(study)
    if not finished:
        raise UserError(
            f"no trial is finished in {str(folder)!r}: go on with {resume_command(folder)}"
        )
    draw_curves(run, study, finished)
    missing = len(study.trials()) - len(finished)
    if missing:
        print(f"{missing} of {len(study.trials())} trials are not finished and not drawn")
    print(f"drawn: {folder / FIGURE}.png and .svg")


def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
) -> None:
    """Play a run's stored evaluation episodes again and compare what comes of them."""
    from .validation import validate as replay

    run = RunFolder.open(folder)
    study = run.study()
    torch.set_num_threads(1)
    failed = rounded = total = 0
    for row in replay(run, study):
        print(row)
        total += 1
        failed += not row.reproduced
        rounded += row.reproduced and bool(row.difference)
    if not total:
        raise UserError(f"no trial is finished in {str(folder)!r}: there is nothing to replay")
    exact = total - failed - rounded
    exactly = "all" if exact == total else f"{exact} of them"
    print(f"{total - failed} of {total} episodes are reproduced, {exactly} to the bit")
    if failed:
        then, now = run.manifest(), make_manifest(study, sys.argv, 1)
        for name, what in (("content_sha256", "content"), ("weights_sha256", "weights")):
            if then.get(name) != now[name]:
                print(f"the run was made with other {what}, see its manifest.json")
        raise typer.Exit(1)


def _resume(folder: RunFolder, jobs: int, steps: int | None) -> Study:
    """The study of an earlier run, perhaps longer; its manifest is told that it goes on."""
    folder.check_writable()
    stored = folder.study()
    if steps is not None and steps < stored.steps:
        raise UserError(
            f"--steps may only be raised: the run in {str(folder.path)!r} has {stored.steps}"
        )
    try:
        study = resolve(replace(stored, steps=steps or stored.steps))
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    then, now = folder.manifest(), make_manifest(study, sys.argv, jobs)
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
    earlier = then.pop("resumed", None)
    again = [*earlier, now] if isinstance(earlier, list) else [now]
    folder.write_json("manifest.json", {**then, "resumed": again})
    if study.steps != stored.steps:
        folder.write("study.toml", study.to_toml())
    return study


def _run(
    folder: RunFolder, study: Study, jobs: int, console: Console, checkpoint_seconds: float
) -> None:
    kind = BarsView if console.is_terminal else LinesView
    finished = folder.finished(study)
    try:
        with kind(console, decisions_by_trial(study), finished) as view:
            failed = run_comparison(folder, study, jobs, view, checkpoint_seconds)
        if len(failed) == len(study.trials()):
            first = next(iter(failed.values()))
            print(f"spangym: every trial failed, the first by: {first}", file=sys.stderr)
            raise typer.Exit(1)
        summaries, verdict = conclude(folder, study, failed)
    except KeyboardInterrupt:
        done, total = len(folder.finished(study)), len(study.trials())
        print(
            f"interrupted: {done} of {total} trials are finished and kept; go on with: "
            f"{resume_command(folder.path)}",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    console.print(make_table(summaries, study.name))
    for note in notes(study, failed):
        console.print(note, style="dim", markup=False, highlight=False)
    console.print(verdict, markup=False, highlight=False)
    print(f"written: {folder.path} (open report.html; tensorboard --logdir {folder.path})")
    if failed:
        raise typer.Exit(1)
