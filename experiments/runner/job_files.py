"""Files in the folder of a job: the lock beside it, results, and leftovers of killed processes."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd
from filelock import FileLock, Timeout

from spangym.utils.atomic_io import atomic_write
from spangym.utils.text import printable

RESULT_FILE = "result.json"
"""Last file that a job writes: it exists exactly if the job is complete."""


def job_lock(folder: Path) -> FileLock:
    """Return the lock of a job's folder, which the system releases when its process ends."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def is_locked(folder: Path) -> bool:
    """Return whether a process is running the job of a folder."""
    try:
        with job_lock(folder).acquire(blocking=False):
            return False
    except Timeout:
        return True


def is_finished(folder: Path) -> bool:
    """Return whether the job of a folder is complete."""
    return (folder / RESULT_FILE).exists()


def make_parents(folders: Iterable[Path]) -> None:
    """Make the parents of the folders of jobs.

    Jobs do not make them: they would make another run folder if theirs were moved in mid-run.
    """
    for folder in folders:
        folder.parent.mkdir(parents=True, exist_ok=True)


def clean_job_dir(folder: Path) -> None:
    """Make the folder of a job that starts; of an interrupted job only checkpoints are useful."""
    if folder.exists() and not any(folder.glob("checkpoints/step-*")):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        # The error of the last attempt, and temporary files of a killed process.
        if path.name.startswith(".") and path.is_dir():
            shutil.rmtree(path)
        elif path.name == "error.txt" or path.name.startswith("."):
            path.unlink()


def save_error(folder: Path, text: str) -> None:
    """Write the error of a failed job, in UTF-8; what cannot be seen is escaped.

    Nothing is raised if the file cannot be written: on a full disk there may be no space for it.
    """
    lines = "\n".join(printable(line) for line in text.strip().split("\n"))
    with contextlib.suppress(OSError):
        (folder / "error.txt").write_text(f"{lines}\n", "utf-8")


def is_inside(name: str) -> bool:
    r"""Return whether a relative path, with ``/``, stays in its folder on every system.

    Example:
        >>> [*map(is_inside, ("a/b.txt", "../a", "/a", "a/../../b", "C:a", "a\\b", "a\0", "", "."))]
        [True, False, False, False, False, False, False, False, False]
    """
    parts, windows = PurePosixPath(name).parts, PureWindowsPath(name)
    is_relative = not name.startswith("/") and not windows.drive and "\\" not in name
    return bool(parts) and ".." not in parts and is_relative and "\0" not in name


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, by relative path; links that leave the folder are left out."""
    root = folder.resolve()
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.resolve().is_relative_to(root)
    }


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder hold exactly the given files; the one that marks a finished job comes last.

    Raises:
        ValueError: A file would lie outside of the folder; nothing has changed then.
    """
    root = folder.resolve()
    for name in files:
        if not is_inside(name) or not (folder / name).parent.resolve().is_relative_to(root):
            raise ValueError(f"the file {printable(name)!r} is outside of the job's folder")
    for name in sorted(files, key=lambda name: name == RESULT_FILE):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as tmp:
            tmp.write_bytes(files[name])
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink()


def save_json(path: Path, content: object) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def save_csv(path: Path, rows: pd.DataFrame) -> None:
    """Write a table as a CSV file atomically."""
    with atomic_write(path) as tmp:
        rows.to_csv(tmp, index=False, lineterminator="\n")
