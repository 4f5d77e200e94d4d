"""Reading a pilot's folder: what its finished trainings left behind, as tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from spangym.experiments.pilot.model_training import TABLES, ModelTrainingJob
from spangym.experiments.pilot.pilot_folder import RESULT_KEYS, PilotFolder
from spangym.experiments.pilot.pilot_rows import AttentionMap, PilotRows


def load_pilot_results(folder: PilotFolder, failed: Mapping[str, str] | None = None) -> PilotRows:
    """Read what the finished trainings of a pilot left behind.

    Args:
        folder: The folder, which may be in progress.
        failed: Names of trainings known to have failed, each with its error in a line, beside those
            whose folder says so.

    Raises:
        UserError: Stored rows are damaged.
    """
    study, errors, missing = folder.study(), dict(failed or {}), 0
    results: list[pd.DataFrame] = []
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    attention_maps: list[AttentionMap] = []
    place = {each.name: number for number, each in enumerate(study.variants)}
    jobs = sorted(folder.jobs(), key=lambda job: (place[job.variant.name], job.seed))
    for job in jobs:
        if folder.is_finished(job):
            results.append(_of(job, pd.DataFrame([folder.result(job)])))
            for name, parts in tables.items():
                parts.append(_of(job, folder.table(job, name)))
            if job.seed == study.seeds[0]:
                attention_maps += folder.attention_maps(job)
        elif error := errors.get(job.job_id) or folder.error(job):
            errors[job.job_id] = error
        else:
            missing += 1
    joined = {name: _joined(parts, TABLES[name]) for name, parts in tables.items()}
    splits = dict.fromkeys(joined["evaluation"]["split"])
    trainings = _joined(results, RESULT_KEYS)
    for name in ("milliseconds", "qk_pairs", "span"):
        trainings[name] = trainings[name].astype(float)
    return PilotRows(
        task=study.task,
        variants=tuple(each.name for each in study.variants),
        baseline=study.variants[0].name,
        splits=tuple(splits),
        trainings=trainings,
        curves=joined["curve"],
        evaluations=joined["evaluation"],
        spans=joined["spans"],
        by_span=joined["by_span"],
        attention_maps=tuple(attention_maps),
        failed=tuple(errors.items()),
        missing=missing,
    )


def _of(job: ModelTrainingJob, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that say whose they are."""
    return rows.assign(variant=job.variant.name, seed=job.seed)


def _joined(parts: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    """Rows of several trainings, one below the other."""
    named = ["variant", "seed", *columns]
    if not parts:
        return pd.DataFrame(columns=named)
    whole = [each for each in parts if len(each)] or parts[:1]
    return pd.concat(whole, ignore_index=True).reindex(columns=named)
