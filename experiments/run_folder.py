"""The folder of one run: what lies where, made without spoiling another, read with care."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from ..agents.files import written_whole
from .errors import UserError
from .studies import Study, Trial, training_steps
from .study_reading import parse_resolved

MANIFEST_KEYS = ("command", "started", "versions", "machine", "jobs", "content_sha256")
_EVALUATION_COLUMNS = (
    "agent",
    "training_seed",
    "evaluation_seed",
    "return",
    "mean_span",
    "visited_keys",
    "output_norm",
    "actions",
)


def resume_command(path: Path) -> str:
    """The command that goes on with a run."""
    return f"spangym compare --resume {shlex.quote(str(path))}"


class RunFolder:
    """Folder of a run.

    A trial's folder holds ``result.json`` once it is finished, and not before.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, study: Study, manifest: dict[str, Any]) -> RunFolder:
        """Make a folder for a new run.

        Raises:
            UserError: There is something in it already, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise UserError(
                    f"folder {str(path)!r} is not empty: choose another with --out, or go on "
                    f"with a run in it by {resume_command(path)}"
                )
            folder = cls(path)
            folder.write("study.toml", study.to_toml())
            folder.write_json("manifest.json", manifest)
        except OSError as error:
            raise UserError(
                f"folder {str(path)!r} cannot be written: {error.strerror}; "
                "choose another with --out"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            UserError: It is not the folder of a run, or it is damaged.
        """
        folder = cls(path)
        if not (path / "study.toml").is_file():
            raise UserError(
                f"folder {str(path)!r} is not a run folder: it has no study.toml; "
                "name one that `spangym compare` wrote"
            )
        return folder

    def study(self) -> Study:
        """The study that is run here, without a look at its agents.

        Raises:
            UserError: It cannot be read.
        """
        return parse_resolved(self._read("study.toml"), str(self.path / "study.toml"))

    def finished(self, study: Study) -> list[Trial]:
        """Trials of the study whose results are there.

        Raises:
            UserError: A result is there but cannot be read.
        """
        return [trial for trial in study.trials() if self._is_finished(study, trial)]

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
        return self.path / "trials" / trial.name

    def start(self, trial: Trial) -> Path:
        """Folder for a trial that begins; of an interrupted one only checkpoints are of use."""
        folder = self.trial(trial)
        if folder.exists() and not any(folder.glob("checkpoints/step-*")):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            # An error that is to be tried again, and what a killed process was writing.
            if path.name == "error.txt" or path.name.startswith("."):
                path.unlink()
        return folder

    def _is_finished(self, study: Study, trial: Trial) -> bool:
        if not (self.trial(trial) / "result.json").exists():
            return False
        trained, wanted = self.result(trial)["training_steps"], training_steps(study, trial)
        if trained < wanted:
            # The study's steps were raised, and the trial was interrupted before it came to that.
            return False
        if trained != wanted:
            raise self._damaged(
                f"trials/{trial.name}/result.json",
                f"it was trained for {trained} steps, study.toml says {wanted}",
            )
        return True

    def result(self, trial: Trial) -> dict[str, Any]:
        """Result of a finished trial.

        Raises:
            UserError: It cannot be read.
        """
        name = f"trials/{trial.name}/result.json"
        result = self._read_json(name, ("training_steps", "wall_seconds"))
        if not isinstance(result["wall_seconds"], float):
            raise self._damaged(name, "wall_seconds is no number")
        return result

    def curve(self, study: Study, trial: Trial) -> pd.DataFrame:
        """Rows of a finished trial's ``curve.csv``, one an episode.

        Raises:
            UserError: They cannot be read, or some are missing.
        """
        name = f"trials/{trial.name}/curve.csv"
        rows = self._read_csv(name, ("step", "return"))
        rounds = training_steps(study, trial) // (study.episode_steps * study.lanes)
        episodes = rounds * study.lanes
        if len(rows) != episodes:
            raise self._damaged(name, f"it has {len(rows)} rows of {episodes}")
        return rows

    def evaluation(self, study: Study, trials: Iterable[Trial]) -> pd.DataFrame:
        """Rows of the trials' ``evaluation.csv``, one below the other.

        Raises:
            UserError: They cannot be read, or are not those of the study's evaluation.
        """
        return pd.concat([self._evaluation(study, trial) for trial in trials], ignore_index=True)

    def _evaluation(self, study: Study, trial: Trial) -> pd.DataFrame:
        name = f"trials/{trial.name}/evaluation.csv"
        rows = self._read_csv(name, _EVALUATION_COLUMNS)
        seeds = range(study.evaluation.first_seed, study.evaluation.first_seed + len(rows))
        if (
            len(rows) != study.evaluation.episodes
            or rows["evaluation_seed"].tolist() != list(seeds)
            or set(rows["agent"]) != {trial.entry.label}
            or set(rows["training_seed"]) != {trial.seed}
        ):
            raise self._damaged(name, "its rows are not those of the study's evaluation")
        return rows

    def write(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with written_whole(self.path / name) as aside:
            aside.write_text(text, "utf-8")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write(name, json.dumps(content, indent=2) + "\n")

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
            # A label is text, also where it looks like a number or like nothing.
            text = io.StringIO(self._read(name))
            rows = pd.read_csv(text, dtype={"agent": str, "actions": str}, keep_default_na=False)
        except (EmptyDataError, ParserError) as error:
            raise self._damaged(name, error) from error
        if not text.getvalue().endswith("\n"):
            raise self._damaged(name, "its last row is cut short")
        if lacking := [column for column in columns if column not in rows]:
            raise self._damaged(name, f"it lacks the columns {', '.join(lacking)}")
        numbers = rows.drop(columns=["agent", "actions"], errors="ignore")
        if len(rows) and (
            numbers.isna().any(axis=None) or len(numbers.select_dtypes(exclude="number").columns)
        ):
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
