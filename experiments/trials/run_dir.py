"""The folder of a comparison: its study, its trials and what they left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spangym.experiments.runner.job import RESULT_FILE
from spangym.experiments.runner.job_dir import JobDir
from spangym.experiments.studies.load_study import parse_normalized
from spangym.experiments.studies.study import Study, Trial

_EVALUATION_COLUMNS = (
    "evaluation_seed",
    "return",
    "mean_span",
    "qk_pairs",
    "output_norm",
    "actions",
)
_ACTION_COUNTS_COLUMNS = ("layer", "content_type", "action", "count", "mean_span")


class RunDir(JobDir[Trial]):
    """Folder of a comparison: trials lie in ``trials/ENVIRONMENT/AGENT/seed-N-KEY``."""

    command = "compare"
    noun = "comparison"
    plan_noun = "study"
    job_noun = "trial"
    row_keys = ("environment", "agent", "seed", "total_timesteps", "n_envs")
    text_columns = ("actions", "content_type")

    def create(self, study: Study, manifest: dict[str, Any]) -> list[Trial]:
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
        return parse_normalized(self._read("study.toml"), str(self.path / "study.toml"))

    def jobs(self) -> list[Trial]:
        """The study's trials, without a look at its agents.

        Raises:
            UserError: They cannot be read.
        """
        study = self.study()
        known = {
            (environment.name, entry.name): (environment, entry)
            for environment in study.environments
            for entry in study.agents_in(environment)
        }
        trials = []
        for row in self._rows():
            names = row["environment"], row["agent"]
            if names not in known:
                raise self._corrupt("jobs.json", f"study.toml knows nothing of {row['folder']}")
            earlier = study.resumed_from_steps if row["total_timesteps"] else ()
            numbers = row["seed"], row["total_timesteps"], row["n_envs"]
            trials.append(Trial(*known[names], *numbers, study.evaluation, earlier))
        return trials

    def seed_checkpoints_for_longer_training(self, before: Sequence[tuple[Trial, Path]]) -> None:
        """Give trials that are to be longer the checkpoints that they go on from.

        Args:
            before: The trials as they were, each with its folder.
        """
        folders = self._folders()
        for trial, old in before:
            new = self.path / folders[trial.job_id]
            if old != new and any(old.glob("checkpoints/step-*")) and not new.exists():
                tmp = new.with_name(f".{os.getpid()}-{new.name}")
                shutil.copytree(old / "checkpoints", tmp / "checkpoints")
                tmp.rename(new)

    def result(self, trial: Trial) -> dict[str, Any]:
        """Result of a finished trial.

        Raises:
            UserError: It cannot be read.
        """
        name = self._name(trial, RESULT_FILE)
        result = self._read_json(
            name, ("total_timesteps", "wall_seconds", "regret", "full_qk_pairs")
        )
        if not isinstance(result["wall_seconds"], float):
            raise self._corrupt(name, "wall_seconds is no number")
        if result["total_timesteps"] != trial.total_timesteps:
            raise self._corrupt(
                name,
                f"it was trained for {result['total_timesteps']} steps, jobs.json says "
                f"{trial.total_timesteps}",
            )
        return result

    def curve(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``curve.csv``, one an episode.

        Raises:
            UserError: They cannot be read, or some are missing.
        """
        name = self._name(trial, "curve.csv")
        rows = self._read_csv(name, ("step", "return", "qk_pairs", "wall_seconds"))
        rounds = trial.total_timesteps // (trial.environment.episode_steps * trial.n_envs)
        episodes = rounds * trial.n_envs
        if len(rows) != episodes:
            raise self._corrupt(name, f"it has {len(rows)} rows of {episodes}")
        return rows

    def action_counts(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``action_counts.csv``.

        Raises:
            UserError: They cannot be read.
        """
        return self._read_csv(self._name(trial, "action_counts.csv"), _ACTION_COUNTS_COLUMNS)

    def evaluation(self, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``evaluation.csv``, one an episode.

        Raises:
            UserError: They cannot be read, or are not those of the study's evaluation.
        """
        name = self._name(trial, "evaluation.csv")
        rows, evaluation = self._read_csv(name, _EVALUATION_COLUMNS), trial.evaluation
        seeds = range(evaluation.seed, evaluation.seed + len(rows))
        if len(rows) != evaluation.episodes or rows["evaluation_seed"].tolist() != list(seeds):
            raise self._corrupt(name, "its rows are not those of the study's evaluation")
        return rows

    def _plan_name(self) -> str:
        return self.study().name

    def _row(self, job: Trial) -> dict[str, Any]:
        return {
            "environment": job.environment.name,
            "agent": job.agent.name,
            "seed": job.seed,
            "total_timesteps": job.total_timesteps,
            "n_envs": job.n_envs,
        }
