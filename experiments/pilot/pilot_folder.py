"""The folder of a pilot: its study, its trainings and what they left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spangym.experiments.analysis.results import AttentionMap
from spangym.experiments.pilot.attention_maps import load_attention_maps
from spangym.experiments.pilot.load_pilot_study import parse_pilot_study
from spangym.experiments.pilot.model_training import TABLES, ModelTrainingJob
from spangym.experiments.pilot.pilot_study import PilotStudy
from spangym.experiments.runner.job import RESULT_FILE
from spangym.experiments.runner.job_dir import JobDir

RESULT_KEYS = (
    *("updates", "parameters", "seconds", "milliseconds"),
    *("qk_pairs", "full_qk_pairs", "span", "stopped"),
)
"""What the result of a training says."""


class PilotFolder(JobDir[ModelTrainingJob]):
    """Folder of a pilot: trainings lie in ``trainings/VARIANT/seed-N-KEY``."""

    command = "pilot"
    noun = "pilot"
    plan_noun = "pilot"
    job_noun = "training"
    row_keys = ("variant", "seed")
    text_columns = ("split",)
    # Errors of a model whose numbers are no longer finite are missing, too.
    optional_columns = ("loss", "error", "character_error", "span")

    def make(self, study: PilotStudy, manifest: dict[str, Any]) -> None:
        """Note what is to be trained here, in a new folder or in place of what was to be.

        Args:
            study: A resolved study.
            manifest: What it is run with.

        Raises:
            UserError: Another study was run here, or something else is in the folder, or it cannot
                be written.
        """
        self._write_plan(study.name, study.to_toml(), jobs_of(study), manifest)

    def study(self) -> PilotStudy:
        """The study that is run here, without a look at its agents.

        Raises:
            UserError: It cannot be read.
        """
        return parse_pilot_study(self._read("pilot.toml"), str(self.path / "pilot.toml"))

    def jobs(self) -> list[ModelTrainingJob]:
        """The study's trainings, without a look at their agents.

        Raises:
            UserError: They cannot be read.
        """
        study = self.study()
        by_name = {each.name: each for each in study.variants}
        jobs = []
        for row in self._rows():
            if row["variant"] not in by_name:
                raise self._corrupt("jobs.json", f"pilot.toml knows nothing of {row['folder']}")
            jobs.append(ModelTrainingJob(study, by_name[row["variant"]], row["seed"]))
        return jobs

    def result(self, job: ModelTrainingJob) -> dict[str, Any]:
        """Result of a finished training.

        Raises:
            UserError: It cannot be read.
        """
        return self._read_json(self._name(job, RESULT_FILE), RESULT_KEYS)

    def table(self, job: ModelTrainingJob, name: str) -> pd.DataFrame:
        """A table of a finished training, of those of `TABLES`.

        Raises:
            UserError: It cannot be read.
        """
        return self._read_csv(self._name(job, f"{name}.csv"), TABLES[name])

    def attention_maps(self, job: ModelTrainingJob) -> list[AttentionMap]:
        """Attention weights of a finished training."""
        return load_attention_maps(self.folder_of(job), job.variant.name)

    def _plan_name(self) -> str:
        return self.study().name

    def _row(self, job: ModelTrainingJob) -> dict[str, Any]:
        return {"variant": job.variant.name, "seed": job.seed}


def jobs_of(study: PilotStudy) -> list[ModelTrainingJob]:
    """All trainings of a study, those that take longest first."""
    jobs = [
        ModelTrainingJob(study, variant, seed) for seed in study.seeds for variant in study.variants
    ]
    return sorted(jobs, key=lambda each: each.sort_key)


def is_pilot(path: Path) -> bool:
    """Whether a folder is that of a pilot."""
    return PilotFolder(path).is_run
