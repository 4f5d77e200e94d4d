"""``spangym compare``: run a study."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.running import check_memory, make_executor, run_and_report
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.runner.manifest import available_cpus, make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.workload import Workload
from spangym.experiments.studies.field_types import MAX_STEPS
from spangym.experiments.studies.load_study import load_study, normalize_study, override_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.estimate_comparison import estimate_comparison
from spangym.experiments.trials.smoke_test import smoke_test
from spangym.utils.errors import UserError


def command(
    study: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A TOML file or a built-in study; else quickstart."),
    ] = None,
    seeds: options.Seeds = None,
    total_timesteps: Annotated[
        int | None, typer.Option(min=1, max=MAX_STEPS, help="Steps of each training.")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this agent with the baselines (repeatable): an agent of the study, "
            "another built-in one, or your own module:Class."
        ),
    ] = None,
    executor: options.Executor = "local",
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = None,
    out: options.Out = None,
    resume: options.Resume = None,
    checkpoint_seconds: options.CheckpointSeconds = CHECKPOINT_SECONDS,
    quiet: options.Quiet = False,
) -> None:
    """Train and evaluate the agents of a study and compare them.

    With --resume, --total-timesteps makes all trainings longer.
    """
    job_executor = make_executor(executor, address, workers, checkpoint_seconds)
    if resume is None:
        chosen = override_study(
            load_study("quickstart" if study is None else study),
            seeds=seeds,
            total_timesteps=total_timesteps,
            agents=agent or (),
            device=device,
        )
        work = estimate_comparison(chosen)
        check_memory(work, executor)
        smoke_test(chosen)
        folder = RunDir(out or Path("runs", chosen.name), COMPARISON)
        folder.create(chosen, _manifest(chosen, workers or available_cpus()))
    else:
        if any(each is not None for each in (study, seeds, agent, device, out)):
            raise UserError(
                "--resume runs the folder's own study: combine it only with --workers, "
                "--executor, --address, --checkpoint-seconds, --quiet, and --total-timesteps to "
                "train longer"
            )
        folder = RunDir.open(resume, COMPARISON)
        work = _resume(folder, workers or available_cpus(), total_timesteps, executor)
    run_and_report(folder, work, job_executor, quiet)


def _resume(
    folder: ComparisonDir,
    workers: int,
    total_timesteps: int | None,
    executor: options.ExecutorName,
) -> Workload:
    """Write the study and manifest of a resumed run, with longer trainings if wanted."""
    folder.check_writable()
    stored = study = folder.study()
    if total_timesteps is not None and total_timesteps < stored.total_timesteps:
        raise UserError(
            f"--total-timesteps may only be raised: the run in {folder.name!r} has "
            f"{stored.total_timesteps}"
        )
    if total_timesteps not in (None, stored.total_timesteps):
        earlier = (*stored.resumed_from_steps, stored.total_timesteps)
        study = replace(stored, total_timesteps=total_timesteps, resumed_from_steps=earlier)
    try:
        study = normalize_study(study)
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    work = estimate_comparison(study)
    check_memory(work, executor)
    manifest = _manifest(study, workers)
    _check_same_content(folder, manifest)
    before = [(trial, folder.folder_of(trial)) for trial in folder.jobs()]
    folder.create(study, manifest)
    if study.total_timesteps != stored.total_timesteps:
        folder.copy_checkpoints(before)
    return work


def _manifest(study: Study, workers: int) -> dict[str, Any]:
    return make_manifest(sys.argv, workers, study.device, study.content_hashes())


def _check_same_content(folder: ComparisonDir, current: dict[str, Any]) -> None:
    """Refuse to resume a run whose data or weights have changed."""
    stored = folder.manifest()
    if stored["content_sha256"] != current["content_sha256"]:
        raise UserError(
            f"the run in {folder.name!r} read different content: resume it with the Python "
            "and the files that its manifest.json and study.toml name"
        )
    if stored.get("weights_sha256") != current["weights_sha256"]:
        raise UserError(
            f"the run in {folder.name!r} used different weights: run the study again in "
            "another folder"
        )
