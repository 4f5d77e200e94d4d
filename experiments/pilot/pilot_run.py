"""Run folders of pilots: their trainings and tables."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from spangym.experiments.pilot.model_training import TABLES, ModelTrainingJob
from spangym.experiments.pilot.pilot_study import PilotStudy
from spangym.experiments.runner.run_dir import RunDir, RunKind


class _Row(BaseModel, strict=True):
    variant: str
    seed: Annotated[int, Field(ge=0)]


class _Result(BaseModel, strict=True):
    updates: int
    parameters: int
    seconds: float
    milliseconds: float | None
    qk_pairs: float | None
    full_qk_pairs: float
    span: float | None
    stopped: str


def jobs_of(study: PilotStudy) -> list[ModelTrainingJob]:
    """Return all trainings of a study, the slowest first."""
    jobs = [
        ModelTrainingJob(study, variant, seed) for seed in study.seeds for variant in study.variants
    ]
    return sorted(jobs, key=lambda each: each.sort_key)


def _to_row(job: ModelTrainingJob) -> dict[str, Any]:
    return {"variant": job.variant.name, "seed": job.seed}


def _from_rows(study: PilotStudy, rows: list[dict[str, Any]]) -> list[ModelTrainingJob]:
    variants = {each.name: each for each in study.variants}
    return [ModelTrainingJob(study, variants[row["variant"]], row["seed"]) for row in rows]


PILOT = RunKind(
    command="pilot",
    study=PilotStudy,
    jobs=jobs_of,
    to_row=_to_row,
    from_rows=_from_rows,
    row=_Row,
    result=_Result,
    tables=TABLES,
    text_columns=("split",),
    # Errors of a model whose numbers are no longer finite are missing.
    optional_columns=("loss", "error", "character_error", "span"),
)
"""Kind of the runs of ``spangym pilot``."""

PilotDir = RunDir[PilotStudy, ModelTrainingJob]
"""Type of the run folders of pilots."""
