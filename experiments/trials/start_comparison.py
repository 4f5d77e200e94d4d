"""Prepares the folder of a comparison, new or resumed: checks, smoke test, study and manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.runner.workload import Workload
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.estimate_comparison import estimate_comparison
from spangym.experiments.trials.smoke_test import smoke_test
from spangym.utils.errors import UserError


def start_comparison(
    study: Study,
    out: Path | None,
    *,
    command: Sequence[str],
    num_workers: int,
    memory_bytes: int | None,
) -> tuple[ComparisonDir, Workload]:
    """Check a normalized study and write its run folder, in which finished jobs are kept.

    Args:
        study: Normalized study.
        out: Run folder; ``runs/STUDY`` if None.
        command: Words of the command or call, for the manifest.
        num_workers: Number of parallel jobs, for the manifest.
        memory_bytes: Memory of the machine that runs the jobs; None if it is not known.

    Raises:
        UserError: The study is too large, an environment or network cannot be made, or the folder
            holds another study or cannot be written.
    """
    folder, work = check_comparison(study, out, memory_bytes)
    folder.create(study, _manifest(study, command, num_workers))
    return folder, work


def check_comparison(
    study: Study, out: Path | None, memory_bytes: int | None
) -> tuple[ComparisonDir, Workload]:
    """Check a normalized study as `start_comparison` does; nothing is written."""
    work = estimate_comparison(study)
    work.check(memory_bytes)
    smoke_test(study)
    return RunDir(out or Path("runs", study.slug), COMPARISON), work


def resume_comparison(
    path: Path,
    *,
    total_timesteps: int | None,
    command: Sequence[str],
    num_workers: int,
    memory_bytes: int | None,
) -> tuple[ComparisonDir, Workload]:
    """Write the study and manifest of a resumed run, with longer trainings if wanted.

    Args:
        path: Run folder.
        total_timesteps: Steps of each training, at least those of the run; its own if None.
        command: See `start_comparison`, as for the other arguments.
        num_workers: As there.
        memory_bytes: As there.

    Raises:
        UserError: The folder is no run folder or is damaged, its data or weights have changed, or
            the trainings would become shorter.
    """
    folder = RunDir.open(path, COMPARISON)
    folder.check_writable()
    stored = study = folder.study()
    if total_timesteps is not None and total_timesteps < stored.total_timesteps:
        raise UserError(
            f"--total-timesteps may only be raised: the run in {folder.name!r} has "
            f"{stored.total_timesteps}"
        )
    if total_timesteps not in (None, stored.total_timesteps):
        if own := [each.name for each in stored.environments if each.total_timesteps]:
            raise UserError(
                f"--total-timesteps: the run in {folder.name!r} has environments with their own "
                f"total_timesteps, which cannot be raised: {', '.join(own)}"
            )
        earlier = (*stored.resumed_from_steps, stored.total_timesteps)
        study = replace(stored, total_timesteps=total_timesteps, resumed_from_steps=earlier)
    try:
        study = normalize_study(study)
    except UserError as error:
        raise UserError(f"{folder.path / 'study.toml'}: {error}") from error
    work = estimate_comparison(study)
    work.check(memory_bytes)
    manifest = _manifest(study, command, num_workers)
    _check_same_content(folder, manifest)
    if study.total_timesteps != stored.total_timesteps:
        # Before the study is written: else a resumption after a kill would start from scratch.
        folder.copy_checkpoints(study)
    folder.create(study, manifest)
    return folder, work


def _manifest(study: Study, command: Sequence[str], num_workers: int) -> dict[str, Any]:
    return make_manifest(command, num_workers, study.device, study.content_hashes())


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
