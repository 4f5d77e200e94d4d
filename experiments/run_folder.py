"""The folder of one run: what lies where, made without spoiling another, read with care."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from ..agents.files import written_whole
from .attempt import is_finished
from .errors import UserError
from .studies import Study, Trial
from .study_reading import parse_resolved
from .trial import RESULT
from .trial_keys import TrialKeys

MANIFEST_KEYS = ("command", "started", "versions", "machine", "jobs", "content_sha256")
_JOB_KEYS = ("environment", "agent", "seed", "steps", "lanes", "folder")
_EVALUATION_COLUMNS = (
    "evaluation_seed",
    "return",
    "mean_span",
    "visited_keys",
    "output_norm",
    "actions",
)
_TEXT = ("actions", "content")
_CHOICES_COLUMNS = ("layer", "content", "action", "decisions", "span")


def resume_command(path: Path) -> str:
    """The command that goes on with a run."""
    return f"spangym compare --resume {shlex.quote(str(path))}"


class RunFolder:
    """Folder of a run.

    ``study.toml`` says what is compared, ``jobs.json`` which trials that comes to and where each
    lies: in ``trials/ENVIRONMENT/AGENT/seed-N-KEY``, the key being a hash of all that its numbers
    hang on. The folder of a trial holds ``result.json`` once it is finished, and not before.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder_by_name: dict[str, str] | None = None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            UserError: It is not the folder of a run, or it is damaged.
        """
        folder = cls(path)
        if not folder.is_run:
            raise UserError(
                f"folder {str(path)!r} is not a run folder: it has no study.toml; "
                "name one that `spangym compare` wrote"
            )
        return folder

    @property
    def is_run(self) -> bool:
        """Whether there is a run in it."""
        return (self.path / "study.toml").is_file()

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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.is_run:
                self._check_name(study)
                manifest = self._add_to_manifest(manifest)
            elif any(self.path.iterdir()):
                raise UserError(
                    f"folder {str(self.path)!r} is not empty and no run: choose another with --out"
                )
            there = {path.name: path for path in self.path.glob("trials/*/*/seed-*")}
            jobs, trials, keys = [], study.trials(), TrialKeys()
            for trial in trials:
                path = self.path / "trials" / f"{trial.name}-{keys.key_of(trial)}"
                path = there.setdefault(path.name, path)
                jobs.append(_job(trial, path.relative_to(self.path)))
            self.write_json("manifest.json", manifest)
            self.write("study.toml", study.to_toml())
            self.write_json("jobs.json", {"trials": jobs})
            self._folder_by_name = None
        except OSError as error:
            raise UserError(
                f"folder {str(self.path)!r} cannot be written: {error.strerror}; "
                "choose another with --out"
            ) from error
        return trials

    def _check_name(self, study: Study) -> None:
        name = self.study().name
        if name != study.name:
            raise UserError(
                f"folder {str(self.path)!r} holds a run of the study {name!r}: "
                f"choose another with --out for {study.name!r}"
            )

    def _add_to_manifest(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The first manifest, and all later ones."""
        first = self.manifest()
        earlier = first.pop("resumed", None)
        again = earlier if isinstance(earlier, list) else []
        return {**first, "resumed": [*again, manifest]}

    def study(self) -> Study:
        """The study that is run here, without a look at its agents.

        Raises:
            UserError: It cannot be read.
        """
        return parse_resolved(self._read("study.toml"), str(self.path / "study.toml"))

    def trials(self) -> list[Trial]:
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
        for job in self._jobs():
            names = job["environment"], job["agent"]
            if names not in known:
                raise self._damaged("jobs.json", f"study.toml knows nothing of {job['folder']}")
            earlier = study.earlier_steps if job["steps"] else ()
            numbers = job["seed"], job["steps"], job["lanes"]
            trials.append(Trial(*known[names], *numbers, study.evaluation, earlier))
        return trials

    def finished(self) -> list[Trial]:
        """Trials of the study whose results are there.

        Raises:
            UserError: A result is there but cannot be read.
        """
        return [trial for trial in self.trials() if self.is_finished(trial)]

    def is_finished(self, trial: Trial) -> bool:
        """Whether a trial's results are there."""
        return is_finished(self.trial(trial))

    def error(self, trial: Trial) -> str:
        """Why a trial failed, in a line; empty if it did not, or is being tried again."""
        path = self.trial(trial) / "error.txt"
        try:
            return path.read_text("utf-8").strip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    def manifest(self) -> dict[str, Any]:
        """What the run was made with.

        Raises:
            UserError: It cannot be read.
        """
        return self._read_json("manifest.json", MANIFEST_KEYS)

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written.

        Raises:
            UserError: It cannot.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"folder {str(self.path)!r} cannot be written: permission denied")

    def trial(self, trial: Trial) -> Path:
        """Folder of a trial."""
        return self.path / self._folders()[trial.name]

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

    def write(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with written_whole(self.path / name) as aside:
            aside.write_text(text, "utf-8")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write(name, json.dumps(content, indent=2) + "\n")

    def _jobs(self) -> list[dict[str, Any]]:
        jobs = self._read_json("jobs.json", ("trials",))["trials"]
        whole = isinstance(jobs, list) and all(
            isinstance(job, dict) and all(key in job for key in _JOB_KEYS) for job in jobs
        )
        if not whole:
            raise self._damaged("jobs.json", f"its trials must have {', '.join(_JOB_KEYS)}")
        return jobs

    def _folders(self) -> dict[str, str]:
        """Folders of the study's trials within this one, by the trials' names."""
        if self._folder_by_name is None:
            names = [trial.name for trial in self.trials()]
            folders = [job["folder"] for job in self._jobs()]
            self._folder_by_name = dict(zip(names, folders, strict=True))
        return self._folder_by_name

    def _name(self, trial: Trial, name: str) -> str:
        return f"{self._folders()[trial.name]}/{name}"

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(name, error) from error

    def _read_json(self, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        try:
            content = json.loads(self._read(name))
        except json.JSONDecodeError as error:
            raise self._damaged(name, error) from error
        if not isinstance(content, dict):
            raise self._damaged(name, "not a JSON object")
        if lacking := [key for key in keys if key not in content]:
            raise self._damaged(name, f"it lacks {', '.join(lacking)}")
        return content

    def _read_csv(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        try:
            # What is text is text, also where it looks like a number or like nothing.
            text = io.StringIO(self._read(name))
            rows = pd.read_csv(text, dtype={"actions": str, "content": str}, keep_default_na=False)
        except (EmptyDataError, ParserError) as error:
            raise self._damaged(name, error) from error
        if not text.getvalue().endswith("\n"):
            raise self._damaged(name, "its last row is cut short")
        if lacking := [column for column in columns if column not in rows]:
            raise self._damaged(name, f"it lacks the columns {', '.join(lacking)}")
        for column in rows.columns if len(rows) else ():
            values = rows[column].to_numpy()
            if column not in _TEXT and (values.dtype.kind not in "if" or np.isnan(values).any()):
                raise self._damaged(name, "a row is cut short or holds no number")
        return rows

    def _damaged(self, name: str, error: object) -> UserError:
        cause = getattr(error, "strerror", None) or str(error).strip().replace("\n", " ")
        trial = name.startswith("trials/")
        remedy = (
            f"delete {(self.path / name).parent} and run `{resume_command(self.path)}`"
            if trial
            else "run the comparison again in another folder"
        )
        return UserError(f"run folder is damaged: {self.path / name}: {cause}; {remedy}")


def _job(trial: Trial, folder: Path) -> dict[str, Any]:
    return {
        "environment": trial.environment.label,
        "agent": trial.agent.label,
        "seed": trial.seed,
        "steps": trial.steps,
        "lanes": trial.lanes,
        "folder": folder.as_posix(),
    }
