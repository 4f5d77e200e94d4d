"""The folder of a comparison: its study, its trials and what they left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spangym.experiments.runner.job import RESULT
from spangym.experiments.runner.job_dir import JobFolder
from spangym.experiments.studies.load_study import parse_resolved
from spangym.experiments.studies.study import Study, Trial

_EVALUATION_COLUMNS = (
    "evaluation_seed",
    "return",
    "mean_span",
    "visited_keys",
    "output_norm",
    "actions",
)
_CHOICES_COLUMNS = ("layer", "content", "action", "decisions", "span")


class RunFolder(JobFolder[Trial]):
    """Folder of a comparison: trials lie in ``trials/ENVIRONMENT/AGENT/seed-N-KEY``."""

    command = "compare"
    noun = "comparison"
    plan_noun = "study"
    job_noun = "trial"
    row_keys = ("environment", "agent", "seed", "steps", "lanes")
    text_columns = ("actions", "content")

    def plan(self, study: Study, manifest: dict[str, Any]) -> list[Trial]:
        """Note what is to be run here, in a new folder or in place of what was to be.

        A trial that is there already keeps its folder, whatever it was called before.

        Args:
            study: A resolved study.
            manifest: What it is run with.

        Returns:
            The study's trials.

        Raises:
            UserError: Another study was run here, or something else is in the folder, or it cannot
                be written.
        """
        trials = study.trials()
        self._write_plan(study.name, study.to_toml(), trials, manifest)
        return trials

    def study(self) -> Study:
        """The study that is run here, without a look at its agents.

        Raises:
            UserError: It cannot be read.
        """
        return parse_resolved(self._read("study.toml"), str(self.path / "study.toml"))

    def jobs(self) -> list[Trial]:
        """The study's trials, without a look at its agents.

        Raises:
            UserError: They cannot be read.
        """
        study = self.study()
        known = {
            (environment.label, entry.label): (environment, entry)
            for environment in study.environments
            for entry in study.entries(environment)
        }
        trials = []
        for row in self._rows():
            names = row["environment"], row["agent"]
            if names not in known:
                raise self._damaged("jobs.json", f"study.toml knows nothing of {row['folder']}")
            earlier = study.earlier_steps if row["steps"] else ()
            numbers = row["seed"], row["steps"], row["lanes"]
            trials.append(Trial(*known[names], *numbers, study.evaluation, earlier))
        return trials

    def lengthen(self, before: Sequence[tuple[Trial, Path]]) -> None:
        """Give trials that are to be longer the checkpoints that they go on from.

        Args:
            before: The trials as they were, each with its folder.
        """
        folders = self._folders()
        for trial, old in before:
            new = self.path / folders[trial.name]
            if old != new and any(old.glob("checkpoints/step-*")) and not new.exists():
                aside = new.with_name(f".{os.getpid()}-{new.name}")
                shutil.copytree(old / "checkpoints", aside / "checkpoints")
                aside.rename(new)

    def result(self, trial: Trial) -> dict[str, Any]:
        """Result of a finished trial.

        Raises:
            UserError: It cannot be read.
        """
        name = self._name(trial, RESULT)
        result = self._read_json(name, ("training_steps", "wall_seconds", "regret", "full_keys"))
        if not isinstance(result["wall_seconds"], float):
            raise self._damaged(name, "wall_seconds is no number")
        if result["training_steps"] != trial.steps:
            raise self._damaged(
                name,
                f"it was trained for {result['training_steps']} steps, jobs.json says "
                f"{trial.steps}",
            )
        return result

    def curve(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``curve.csv``, one an episode.

        Raises:
            UserError: They cannot be read, or some are missing.
        """
        name = self._name(trial, "curve.csv")
        rows = self._read_csv(name, ("step", "return", "visited_keys", "wall_seconds"))
        rounds = trial.steps // (trial.environment.episode_steps * trial.lanes)
        episodes = rounds * trial.lanes
        if len(rows) != episodes:
            raise self._damaged(name, f"it has {len(rows)} rows of {episodes}")
        return rows

    def choices(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``choices.csv``.

        Raises:
            UserError: They cannot be read.
        """
        return self._read_csv(self._name(trial, "choices.csv"), _CHOICES_COLUMNS)

    def evaluation(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``evaluation.csv``, one an episode.

        Raises:
            UserError: They cannot be read, or are not those of the study's evaluation.
        """
        name = self._name(trial, "evaluation.csv")
        rows, judged = self._read_csv(name, _EVALUATION_COLUMNS), trial.evaluation
        seeds = range(judged.first_seed, judged.first_seed + len(rows))
        if len(rows) != judged.episodes or rows["evaluation_seed"].tolist() != list(seeds):
            raise self._damaged(name, "its rows are not those of the study's evaluation")
        return rows

    def _plan_name(self) -> str:
        return self.study().name

    def _row(self, job: Trial) -> dict[str, Any]:
        return {
            "environment": job.environment.label,
            "agent": job.agent.label,
            "seed": job.seed,
            "steps": job.steps,
            "lanes": job.lanes,
        }
