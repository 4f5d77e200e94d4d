"""The folder of a run of jobs: what lies where, made without spoiling another, read with care."""

from __future__ import annotations

import io
import json
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.runner.job import Job
from spangym.experiments.runner.run_job import is_finished
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError

MANIFEST_KEYS = ("command", "started", "versions", "machine", "num_workers", "content_sha256")

J = TypeVar("J", bound=Job)


def json_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table for JSON, which knows no NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


class JobDir(ABC, Generic[J]):
    """Folder of a run of jobs.

    A plan, ``PLAN.toml``, says what is to be done, ``jobs.json`` which jobs that comes to and where
    each lies: in ``JOBs/NAME-KEY``, the key being a hash of all that its numbers hang on. The
    folder of a job holds ``result.json`` once it is finished, and not before.

    Args:
        path: The folder.

    Attributes:
        command: The command of ``spangym`` that makes such folders.
        noun: What such a run is called.
        plan_noun: What its plan is called, which names the plan's file.
        job_noun: What a job is called, which names the folder of all jobs.
        row_keys: What a job's row in ``jobs.json`` holds besides ``folder``.
        text_columns: Columns of the jobs' tables that hold text; all others hold numbers.
        optional_columns: Columns of numbers that may be missing in a row, which makes them NaN.
    """

    command: ClassVar[str]
    noun: ClassVar[str]
    plan_noun: ClassVar[str]
    job_noun: ClassVar[str]
    row_keys: ClassVar[tuple[str, ...]]
    text_columns: ClassVar[tuple[str, ...]] = ()
    optional_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder_by_name: dict[str, str] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder of an earlier run.

        Raises:
            UserError: It is not the folder of a run, or it is damaged.
        """
        folder = cls(path)
        if not folder.is_run:
            raise UserError(
                f"folder {str(path)!r} is not a run folder: it has no {cls.plan_noun}.toml; "
                f"name one that `spangym {cls.command}` wrote"
            )
        return folder

    @property
    def is_run(self) -> bool:
        """Whether there is a run in it."""
        return self._plan_path.is_file()

    @property
    def resume_command(self) -> str:
        """The command that goes on with the run."""
        return f"spangym {self.command} --resume {shlex.quote(str(self.path))}"

    @abstractmethod
    def jobs(self) -> list[J]:
        """The jobs of the plan, in the order of ``jobs.json``.

        Raises:
            UserError: They cannot be read.
        """

    @abstractmethod
    def _plan_name(self) -> str:
        """Name of the plan that is there.

        Raises:
            UserError: It cannot be read.
        """

    @abstractmethod
    def _row(self, job: J) -> dict[str, Any]:
        """What ``jobs.json`` says of a job, by ``row_keys``."""

    def finished(self) -> list[J]:
        """Jobs of the plan whose results are there.

        Raises:
            UserError: The plan cannot be read.
        """
        return [job for job in self.jobs() if self.is_finished(job)]

    def unfinished(self) -> list[tuple[J, Path]]:
        """Jobs of the plan whose results are not there, each with its folder.

        Raises:
            UserError: The plan cannot be read.
        """
        return [(job, self.folder_of(job)) for job in self.jobs() if not self.is_finished(job)]

    def is_finished(self, job: J) -> bool:
        """Whether a job's results are there."""
        return is_finished(self.folder_of(job))

    def error(self, job: J) -> str:
        """Why a job failed, in a line; empty if it did not, or is being tried again."""
        path = self.folder_of(job) / "error.txt"
        try:
            return path.read_text("utf-8").strip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    def folder_of(self, job: J) -> Path:
        """Folder of a job."""
        return self.path / self._folders()[job.job_id]

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

    def write(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with atomic_write(self.path / name) as tmp:
            tmp.write_text(text, "utf-8")

    def save_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        self.write(name, json.dumps(content, indent=2) + "\n")

    def _write_plan(
        self, name: str, text: str, jobs: Sequence[J], manifest: dict[str, Any]
    ) -> None:
        """Note what is to be run here, in a new folder or in place of what was to be.

        A job that is there already keeps its folder, whatever it was called before.

        Args:
            name: The plan's name.
            text: The plan, as TOML.
            jobs: What it comes to.
            manifest: What it is run with.

        Raises:
            UserError: Another plan was run here, or something else is in the folder, or it cannot
                be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.is_run:
                self._check_name(name)
                manifest = self._add_to_manifest(manifest)
            elif any(self.path.iterdir()):
                raise UserError(
                    f"folder {str(self.path)!r} is not empty and no run: choose another with --out"
                )
            rows = self._rows_of(jobs)
            self.save_json("manifest.json", manifest)
            self.write(self._plan_path.name, text)
            self.save_json("jobs.json", {self._plural: rows})
            self._folder_by_name = None
        except OSError as error:
            raise UserError(
                f"folder {str(self.path)!r} cannot be written: {error.strerror}; "
                "choose another with --out"
            ) from error

    def _check_name(self, wanted: str) -> None:
        name = self._plan_name()
        if name != wanted:
            raise UserError(
                f"folder {str(self.path)!r} holds a run of the {self.plan_noun} {name!r}: "
                f"choose another with --out for {wanted!r}"
            )

    def _add_to_manifest(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """The first manifest, and all later ones."""
        first = self.manifest()
        earlier = first.pop("resumed", None)
        again = earlier if isinstance(earlier, list) else []
        return {**first, "resumed": [*again, manifest]}

    def _rows_of(self, jobs: Sequence[J]) -> list[dict[str, Any]]:
        """What ``jobs.json`` is to say of jobs."""
        place, hashes = self.path / self._plural, DatasetHashes()
        depths = {job.job_id.count("/") for job in jobs}
        there = {path.name: path for depth in depths for path in place.glob("*/" * depth + "*")}
        rows = []
        for job in jobs:
            path = place / f"{job.job_id}-{config_hash(job.config_for_hash(hashes))}"
            path = there.setdefault(path.name, path)
            rows.append({**self._row(job), "folder": path.relative_to(self.path).as_posix()})
        return rows

    def _rows(self) -> list[dict[str, Any]]:
        """What ``jobs.json`` says of the jobs."""
        rows = self._read_json("jobs.json", (self._plural,))[self._plural]
        keys = (*self.row_keys, "folder")
        whole = isinstance(rows, list) and all(
            isinstance(row, dict) and all(key in row for key in keys) for row in rows
        )
        if not whole:
            raise self._corrupt("jobs.json", f"its {self._plural} must have {', '.join(keys)}")
        return rows

    def _folders(self) -> dict[str, str]:
        """Folders of the jobs within this one, by the jobs' names."""
        if self._folder_by_name is None:
            names = [job.job_id for job in self.jobs()]
            folders = [row["folder"] for row in self._rows()]
            self._folder_by_name = dict(zip(names, folders, strict=True))
        return self._folder_by_name

    @property
    def _plan_path(self) -> Path:
        return self.path / f"{self.plan_noun}.toml"

    @property
    def _plural(self) -> str:
        return f"{self.job_noun}s"

    def _name(self, job: J, name: str) -> str:
        """Name of a job's file, as within this folder."""
        return f"{self._folders()[job.job_id]}/{name}"

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._corrupt(name, error) from error

    def _read_json(self, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        try:
            content = json.loads(self._read(name))
        except json.JSONDecodeError as error:
            raise self._corrupt(name, error) from error
        if not isinstance(content, dict):
            raise self._corrupt(name, "not a JSON object")
        if lacking := [key for key in keys if key not in content]:
            raise self._corrupt(name, f"it lacks {', '.join(lacking)}")
        return content

    def _read_csv(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        try:
            # What is text is text, also where it looks like a number or like nothing.
            text = io.StringIO(self._read(name))
            types: dict[Hashable, type[str]] = dict.fromkeys(self.text_columns, str)
            missing = {column: [""] for column in self.optional_columns}
            rows = pd.read_csv(text, dtype=types, keep_default_na=False, na_values=missing)
        except (EmptyDataError, ParserError) as error:
            raise self._corrupt(name, error) from error
        if not text.getvalue().endswith("\n"):
            raise self._corrupt(name, "its last row is cut short")
        if lacking := [column for column in columns if column not in rows]:
            raise self._corrupt(name, f"it lacks the columns {', '.join(lacking)}")
        for column in rows.columns if len(rows) else ():
            values = rows[column].to_numpy()
            number = values.dtype.kind in "if" and (
                column in self.optional_columns or not np.isnan(values).any()
            )
            if column not in self.text_columns and not number:
                raise self._corrupt(name, "a row is cut short or holds no number")
        return rows

    def _corrupt(self, name: str, error: object) -> UserError:
        cause = getattr(error, "strerror", None) or str(error).strip().replace("\n", " ")
        remedy = (
            f"delete {(self.path / name).parent} and run `{self.resume_command}`"
            if name.startswith(f"{self._plural}/")
            else f"run the {self.noun} again in another folder"
        )
        return UserError(f"run folder is damaged: {self.path / name}: {cause}; {remedy}")
