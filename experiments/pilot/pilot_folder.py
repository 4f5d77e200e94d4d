"""The folder of a pilot: its plan, its trainings and what they left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from spangym.experiments.pilot.attention_maps import read_pictures
from spangym.experiments.pilot.load_pilot_study import parse_resolved
from spangym.experiments.pilot.model_training import TABLES, Training
from spangym.experiments.pilot.pilot_rows import AttentionPicture
from spangym.experiments.pilot.pilot_study import Plan
from spangym.experiments.runner.job import RESULT
from spangym.experiments.runner.job_dir import JobFolder

RESULT_KEYS = (
    *("updates", "parameters", "seconds", "milliseconds"),
    *("visited_keys", "full_keys", "span", "stopped"),
)
"""What the result of a training says."""


class PilotFolder(JobFolder[Training]):
    """Folder of a pilot: trainings lie in ``trainings/VARIANT/seed-N-KEY``."""

    command = "pilot"
    noun = "pilot"
    plan_noun = "pilot"
    job_noun = "training"
    row_keys = ("variant", "seed")
    text_columns = ("split",)
    # Errors of a model whose numbers are no longer finite are missing, too.
    optional_columns = ("loss", "error", "character_error", "span")

    def make(self, plan: Plan, manifest: dict[str, Any]) -> None:
        """Note what is to be trained here, in a new folder or in place of what was to be.

        Args:
            plan: A resolved plan.
            manifest: What it is run with.

        Raises:
            UserError: Another plan was run here, or something else is in the folder, or it cannot
                be written.
        """
        self._write_plan(plan.name, plan.to_toml(), trainings_of(plan), manifest)

    def plan(self) -> Plan:
        """The plan that is run here, without a look at its agents.

        Raises:
            UserError: It cannot be read.
        """
        return parse_resolved(self._read("pilot.toml"), str(self.path / "pilot.toml"))

    def jobs(self) -> list[Training]:
        """The plan's trainings, without a look at their agents.

        Raises:
            UserError: They cannot be read.
        """
        plan = self.plan()
        by_label = {each.label: each for each in plan.variants}
        trainings = []
        for row in self._rows():
            if row["variant"] not in by_label:
                raise self._damaged("jobs.json", f"pilot.toml knows nothing of {row['folder']}")
            trainings.append(Training(plan, by_label[row["variant"]], row["seed"]))
        return trainings

    def result(self, training: Training) -> dict[str, Any]:
        """Result of a finished training.

        Raises:
            UserError: It cannot be read.
        """
        return self._read_json(self._name(training, RESULT), RESULT_KEYS)

    def table(self, training: Training, name: str) -> pd.DataFrame:
        """A table of a finished training, of those of `TABLES`.

        Raises:
            UserError: It cannot be read.
        """
        return self._read_csv(self._name(training, f"{name}.csv"), TABLES[name])

    def pictures(self, training: Training) -> list[AttentionPicture]:
        """Attention weights of a finished training."""
        return read_pictures(self.folder_of(training), training.variant.label)

    def _plan_name(self) -> str:
        return self.plan().name

    def _row(self, job: Training) -> dict[str, Any]:
        return {"variant": job.variant.label, "seed": job.seed}


def trainings_of(plan: Plan) -> list[Training]:
    """All trainings of a plan, those that take longest first."""
    trainings = [Training(plan, variant, seed) for seed in plan.seeds for variant in plan.variants]
    return sorted(trainings, key=lambda each: each.haste)


def is_pilot(path: Path) -> bool:
    """Whether a folder is that of a pilot."""
    return PilotFolder(path).is_run
