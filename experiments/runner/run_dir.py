"""Run folders, with one layout for comparisons and pilots.

study.toml       normalized study
manifest.json    commands, versions, machine and content
jobs.json        jobs of the study, each with its folder
jobs/ID-KEY/     files of a job; KEY is a hash of everything that affects its results

A job that is no longer part of a changed study is superseded: its folder is not in ``jobs.json``.
It stays until `spangym.experiments.runner.clean_run` removes it, and counts again if the study is
changed back. Meanwhile its event files have names that TensorBoard ignores.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.runner.job import Job
from spangym.experiments.runner.job_files import (
    RESULT_FILE,
    is_finished,
    is_inside,
    is_locked,
    save_json,
)
from spangym.experiments.runner.manifest import changes_since
from spangym.experiments.runner.run_plan import PlannedJob, plan_job
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError
from spangym.utils.serialization import parse_json
from spangym.utils.text import printable, shell_join
from spangym.utils.toml import describe_invalid, parse_toml

_JOB_FOLDER = re.compile(r"[^.].*-[0-9a-f]{16}")
_EVENTS, _HIDDEN_EVENTS = "tfevents", "superseded"
"""TensorBoard reads the files whose names contain the first word."""

MANIFEST_KEYS = ("command", "started", "versions", "machine", "num_workers", "content_sha256")


class StoredStudy(Protocol):
    """A study that can be written to a run folder."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def to_toml(self) -> str:
        """Return the study as TOML."""
        ...


S = TypeVar("S", bound=StoredStudy)
J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class RunKind(Generic[S, J]):
    """Differences between the runs of ``spangym compare`` and ``spangym pilot``.

    Attributes:
        command: Subcommand of ``spangym`` that writes such runs.
        study: Class of the study.
        jobs: Function from a study to its jobs.
        to_row: Function from a job to its row in ``jobs.json``.
        from_rows: Function from a study and rows to jobs, which does not import agents; raises
            KeyError for a row that does not belong to the study.
        row: Types of the values of a row; there may be others.
        result: Types of the values of ``result.json``; there may be others.
        tables: Columns of each table of a job, by the name of its CSV file.
        text_columns: Columns that hold text; all others hold numbers.
        optional_columns: Columns of numbers that may be empty, which are read as NaN.
        check_study: Function that raises a TypeError or ValueError for a stored study of which
            jobs cannot be made; it does not import agents.
        find_error: Function from a job, the name of a file and its content to the contradiction
            between them, empty if there is none.
    """

    command: str
    study: type[S]
    jobs: Callable[[S], list[J]]
    to_row: Callable[[J], dict[str, Any]]
    from_rows: Callable[[S, list[dict[str, Any]]], list[J]]
    row: type[BaseModel]
    result: type[BaseModel]
    tables: Mapping[str, tuple[str, ...]]
    text_columns: tuple[str, ...]
    optional_columns: tuple[str, ...] = ()
    check_study: Callable[[S], None] | None = None
    find_error: Callable[[J, str, Any], str] | None = None


class RunDir(Generic[S, J]):
    """A run folder of a `RunKind`; methods that read raise a UserError for damaged files."""

    def __init__(self, path: Path, kind: RunKind[S, J]) -> None:
        # In a command, a name that starts with a dash would be an option.
        self.name = f"./{path}" if str(path).startswith("-") else str(path)
        # A user's code may change the working folder.
        self.path = path.resolve()
        self.kind = kind
        self._folders: dict[str, str] = {}

    @staticmethod
    def open(path: Path, kind: RunKind[S, J]) -> RunDir[S, J]:
        """Open the folder of an earlier run; UserError if it holds no whole run of this kind."""
        if run_command(path) != kind.command:
            raise UserError(
                f"folder {str(path)!r} is not a run folder of `spangym {kind.command}`: it "
                f"{'has no study.toml of one' if path.is_dir() else 'does not exist'}"
            )
        if is_summary(path):
            raise UserError(
                f"folder {str(path)!r} holds the summary of a run, without the files of its jobs: "
                "summary.json has its numbers; make a whole run with "
                f"`{summary_command(path)}`"
            )
        return RunDir(path, kind)

    @property
    def resume_command(self) -> str:
        """Command that resumes the run."""
        return shell_join(["spangym", self.kind.command, "--resume", self.name])

    def create(self, study: S, manifest: dict[str, Any]) -> list[J]:
        """Write a normalized study, its jobs and the manifest; return the jobs.

        In the folder of an earlier run, the manifest is added to the earlier one, with what has
        changed since the last one, and a job that already has a folder keeps it, even if agent or
        environment had other names.

        Raises:
            UserError: The folder holds another study or other files, or is not writable, or a path
                in the study is not UTF-8.
        """
        jobs, toml = self.kind.jobs(study), study.to_toml()
        with self._report_os_errors():
            self._check_place(study)
            self.path.mkdir(parents=True, exist_ok=True)
            if run_command(self.path):
                first = self.manifest()
                resumed = first.pop("resumed", None)
                resumed = resumed if isinstance(resumed, list) else []
                last = [first, *(each for each in resumed if isinstance(each, dict))][-1]
                changed = changes_since(last, manifest)
                manifest = {**first, "resumed": [*resumed, {**manifest, "changed": changed}]}
            rows = self._make_rows(jobs)
            save_json(self.path / "manifest.json", manifest)
            self.write("study.toml", toml)
            save_json(self.path / "jobs.json", {"jobs": rows})
            for row in rows:
                _rename_events(self.path / row["folder"], _HIDDEN_EVENTS, _EVENTS)
            self.hide_superseded()
        self._folders = {}
        return jobs

    def plan(self, study: S) -> list[PlannedJob]:
        """Return the jobs that `create` would write, and how far they are; nothing is written.

        Raises:
            UserError: As `create`.
        """
        with self._report_os_errors():
            self._check_place(study)
            existing = next(each for each in (self.path, *self.path.parents) if each.exists())
            if not os.access(existing, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            jobs = self.kind.jobs(study)
            rows = self._make_rows(jobs)
        return [
            plan_job(job, row, self.path / row["folder"])
            for job, row in zip(jobs, rows, strict=True)
        ]

    def _check_place(self, study: S) -> None:
        """Raise a UserError if the folder cannot hold the study."""
        if wrong := [line for line in study.to_toml().split("\n") if not _is_utf8(line)]:
            raise UserError(f"the study has a path that is not UTF-8, {wrong[0]}: rename it")
        if run_command(self.path):
            self._check_same_study(study.name)
        elif not _is_utf8(str(self.path)):
            raise UserError(
                f"folder '{printable(self.path)}' has a name that is not UTF-8, in which "
                "TensorBoard cannot write: choose another folder"
            )
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(
                f"folder {self.name!r} is not empty and not a run folder: choose another folder"
            )

    @contextlib.contextmanager
    def _report_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"folder {self.name!r} cannot be written: {error.strerror}; choose another folder"
            ) from error

    def study(self) -> S:
        """Read the study, without importing its agents."""
        path = self.path / "study.toml"
        study = parse_toml(self._read("study.toml"), str(path), self.kind.study)
        if self.kind.check_study:
            try:
                self.kind.check_study(study)
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}: {printable(error)}") from error
        return study

    def jobs(self) -> list[J]:
        """Read the jobs in the order of ``jobs.json``, without importing their agents."""
        study, rows = self.study(), self._rows()
        try:
            return self.kind.from_rows(study, rows)
        except KeyError as error:
            raise self._damaged("jobs.json", f"{error} does not fit study.toml") from error

    def finished(self) -> list[J]:
        """Return the jobs that are complete."""
        return [job for job in self.jobs() if self.is_finished(job)]

    def unfinished(self) -> list[tuple[J, Path]]:
        """Return the jobs that are not complete, with their folders."""
        return [(job, self.folder_of(job)) for job in self.jobs() if not self.is_finished(job)]

    def is_finished(self, job: J) -> bool:
        """Return whether a job is complete."""
        return is_finished(self.folder_of(job))

    def error(self, job: J) -> str:
        """Return the error of a failed job in one line; empty if it is not known to have failed."""
        try:
            text = (self.folder_of(job) / "error.txt").read_text("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""
        return printable(text.strip().rpartition("\n")[2])

    def folder_of(self, job: J) -> Path:
        """Return the folder of a job."""
        return self.path / self._folder_name(job)

    def superseded(self) -> list[Path]:
        """Return the folders of jobs that an earlier version of the study had."""
        current = {row["folder"] for row in self._rows()}
        folders = self._job_folders({name.count("/") - 1 for name in current})
        return [path for path in folders if path.relative_to(self.path).as_posix() not in current]

    def hide_superseded(self) -> None:
        """Hide the events of superseded jobs from TensorBoard, except for jobs that are running."""
        for folder in self.superseded():
            if any(folder.glob(f"*{_EVENTS}*")) and not is_locked(folder):
                _rename_events(folder, _EVENTS, _HIDDEN_EVENTS)

    def result(self, job: J) -> dict[str, Any]:
        """Read ``result.json`` of a finished job."""
        name = f"{self._folder_name(job)}/{RESULT_FILE}"
        fields = self.kind.result.model_fields
        content = self._read_json(name, [key for key in fields if fields[key].is_required()])
        self._check_types(name, content, self.kind.result)
        return self._checked(job, name, content)

    def table(self, job: J, table: str) -> pd.DataFrame:
        """Read a CSV file of a finished job, by its name without suffix, for example ``curve``."""
        name = f"{self._folder_name(job)}/{table}.csv"
        return self._checked(job, name, self._read_csv(name, self.kind.tables[table]))

    def manifest(self) -> dict[str, Any]:
        """Read the manifest."""
        return self._read_json("manifest.json", MANIFEST_KEYS)

    def summary(self) -> dict[str, Any]:
        """Read ``summary.json``."""
        return self._read_json("summary.json", ("study", "headlines", "groups", "failed"))

    def changes(self) -> list[str]:
        """Return in words what changed in code, libraries or machine when the run was resumed."""
        resumed = self.manifest().get("resumed")
        last = resumed[-1] if isinstance(resumed, list) and resumed else {}
        changed = last.get("changed") if isinstance(last, dict) else None
        return [*map(str, changed)] if isinstance(changed, list) else []

    def add_tables(self, tables: Mapping[str, str]) -> None:
        """Add tables that the run uses to the manifest, as hashes of their identity by name."""
        manifest = self.manifest()
        known = manifest.get("tables")
        manifest["tables"] = {**(known if isinstance(known, dict) else {}), **tables}
        save_json(self.path / "manifest.json", manifest)

    def copy_checkpoints(self, study: S) -> None:
        """Copy checkpoints to the folders that a study with longer trainings will have."""
        rows = self._make_rows(self.kind.jobs(study))
        longer = {
            job.job_id: self.path / row["folder"]
            for job, row in zip(self.kind.jobs(study), rows, strict=True)
        }
        for job in self.jobs():
            old, new = self.folder_of(job), longer[job.job_id]
            if old != new and any(old.glob("checkpoints/step-*")) and not new.exists():
                tmp = new.with_name(f".{os.getpid()}-{new.name}")
                shutil.copytree(old / "checkpoints", tmp / "checkpoints")
                tmp.rename(new)

    def check_writable(self) -> None:
        """Raise a UserError if files cannot be written."""
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(f"folder {self.name!r} cannot be written: permission denied")

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        with atomic_write(self.path / name) as tmp:
            tmp.write_text(text, "utf-8")

    def _check_same_study(self, wanted: str) -> None:
        command = run_command(self.path)
        run = f"spangym {command}"
        if command == self.kind.command:
            if (name := self.study().name) == wanted:
                return
            run = f"the study {name!r}"
        raise UserError(
            f"folder {self.name!r} holds a run of {run}: choose another folder for {wanted!r}"
        )

    def _make_rows(self, jobs: Sequence[J]) -> list[dict[str, Any]]:
        hashes = DatasetHashes()
        depths = {job.job_id.count("/") for job in jobs}
        existing = {path.name: path for path in self._job_folders(depths)}
        rows = []
        for job in jobs:
            key = config_hash(job.config_for_hash(hashes))
            path = self.path / "jobs" / f"{job.job_id}-{key}"
            # Jobs with equal results share a folder.
            path = existing.setdefault(path.name, path)
            rows.append({**self.kind.to_row(job), "folder": path.relative_to(self.path).as_posix()})
        return rows

    def _job_folders(self, depths: Iterable[int]) -> list[Path]:
        """Return all folders of jobs, of earlier studies too; depths are those in ``jobs/``.

        Those behind a symbolic link are left out: they may be of another run.
        """
        root = self.path / "jobs"
        return sorted(
            path
            for depth in depths
            for path in root.glob("*/" * depth + "*")
            if _JOB_FOLDER.fullmatch(path.name)
            and path.is_dir()
            and path.resolve() == root.resolve() / path.relative_to(root)
        )

    def _rows(self) -> list[dict[str, Any]]:
        rows = self._read_json("jobs.json", ("jobs",))["jobs"]
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and isinstance(row.get("folder"), str) for row in rows
        ):
            raise self._damaged("jobs.json", "its jobs must be a list of objects with a folder")
        for number, row in enumerate(rows):
            self._check_types("jobs.json", row, self.kind.row, f"jobs.{number}.")
            if not is_inside(row["folder"]) or not row["folder"].startswith("jobs/"):
                raise self._damaged("jobs.json", f"jobs.{number}.folder must be a folder in jobs/")
        return rows

    def _folder_name(self, job: J) -> str:
        if not self._folders:
            folders = [row["folder"] for row in self._rows()]
            self._folders = {
                each.job_id: folder for each, folder in zip(self.jobs(), folders, strict=True)
            }
        return self._folders[job.job_id]

    def _checked(self, job: J, name: str, content: Any) -> Any:
        find_error = self.kind.find_error
        if find_error and (error := find_error(job, Path(name).name, content)):
            raise self._damaged(name, error)
        return content

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._damaged(name, error) from error

    def _read_json(self, name: str, keys: Sequence[str]) -> dict[str, Any]:
        try:
            content = parse_json(self._read(name))
        except ValueError as error:
            raise self._damaged(name, error) from error
        if not isinstance(content, dict):
            raise self._damaged(name, "not a JSON object")
        if missing := [key for key in keys if key not in content]:
            raise self._damaged(name, f"it lacks {', '.join(missing)}")
        return content

    def _check_types(self, name: str, content: Any, kind: type[BaseModel], where: str = "") -> None:
        try:
            kind.model_validate(content)
        except ValidationError as error:
            raise self._damaged(name, describe_invalid(error, where)) from error

    def _read_csv(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        text_columns, optional = self.kind.text_columns, self.kind.optional_columns
        text = self._read(name)
        try:
            # Text stays text even where it looks like a number or a missing value.
            types: dict[Hashable, type[str]] = dict.fromkeys(text_columns, str)
            empty = {column: [""] for column in optional}
            rows = pd.read_csv(
                io.StringIO(text), dtype=types, keep_default_na=False, na_values=empty
            )
        except (ValueError, OverflowError) as error:
            raise self._damaged(name, error) from error
        if not text.endswith("\n"):
            raise self._damaged(name, "its last row is cut short")
        if missing := [column for column in columns if column not in rows]:
            raise self._damaged(name, f"it lacks the columns {', '.join(missing)}")
        for column in rows.columns.intersection([*text_columns]):
            rows[column] = rows[column].map(printable)
        for column in rows.columns.difference([*text_columns], sort=False) if len(rows) else ():
            values = rows[column].to_numpy()
            if values.dtype.kind not in "if" or (column not in optional and np.isnan(values).any()):
                raise self._damaged(name, "a row is cut short or holds no number")
        return rows

    def _damaged(self, name: str, error: object) -> UserError:
        cause = getattr(error, "strerror", None) or printable(" ".join(str(error).split()))
        path = self.path / name
        remedy = (
            f"delete {path.parent} and run `{self.resume_command}`"
            if name.startswith("jobs/")
            else "run the study again in another folder"
        )
        return UserError(f"run folder is damaged: {path}: {cause}; {remedy}")


def is_summary(path: Path) -> bool:
    """Return whether a folder holds the summary of a run without the files of its jobs."""
    return (path / "summary.json").exists() and not (path / "jobs").exists()


def summary_command(path: Path) -> str:
    """Return the command that makes the whole run of a summary."""
    study = path / "study.toml"
    task = re.search(r'^task *= *"(\w+)"', study.read_text("utf-8", "replace"), re.MULTILINE)
    words = [run_command(path), *([task[1]] if task else []), study]
    return shell_join(["spangym", *words])


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def run_command(path: Path) -> str:
    """Return the subcommand that wrote a run folder, ``compare`` or ``pilot``; empty if none."""
    try:
        study = (path / "study.toml").read_text("utf-8", "replace")
    except OSError:
        return ""
    # Only the studies of pilots have a task.
    return "pilot" if re.search(r"^task *=", study, re.MULTILINE) else "compare"


def _rename_events(folder: Path, old: str, new: str) -> None:
    """Replace a word in the names of a job's event files; the folder need not exist."""
    for path in folder.glob(f"*{old}*"):
        # Another process may do the same.
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(path.name.replace(old, new)))


def json_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON, with None for NaN."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
