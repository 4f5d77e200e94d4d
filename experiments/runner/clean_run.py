"""Finding and removing files of a run folder that neither its report nor a resumption needs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from spangym.experiments.runner.job_files import job_lock
from spangym.experiments.runner.run_dir import RunDir
from spangym.utils.folders import folder_size, remove, remove_at_once

_TEMPORARY = re.compile(r"\.\d+-(.+)")
"""Names of temporary files and folders, by the id of the process that writes them."""

_MIN_AGE = 3600.0
"""Seconds after which no process is still writing a temporary file, on any machine."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed.

    Attributes:
        path: The file or folder.
        is_job: Whether it is the folder of a superseded job, else it is a temporary file.
        size: Size in bytes.
    """

    path: Path
    is_job: bool
    size: int


def find_leftovers(run: RunDir[Any, Any]) -> list[Leftover]:
    """Return superseded jobs and the temporary files of killed processes, an hour old at least."""
    superseded = run.superseded()
    found = [Leftover(path, True, folder_size(path)) for path in superseded]
    now, jobs = time.time(), run.path / "jobs"
    for path in sorted(run.path.rglob(".*")):
        name = _TEMPORARY.fullmatch(path.name)
        # Outside of the jobs there may be files of the user, such as ".2026-notes.md".
        is_ours = name and (path.is_relative_to(jobs) or path.with_name(name[1]).exists())
        if is_ours and not any(map(path.is_relative_to, superseded)):
            with contextlib.suppress(FileNotFoundError):
                if now - path.lstat().st_mtime > _MIN_AGE:
                    found.append(Leftover(path, False, folder_size(path)))
    return found


def remove_leftovers(run: RunDir[Any, Any], leftovers: list[Leftover]) -> Iterator[Leftover]:
    """Remove files and folders, and yield those that were removed.

    A job that another process is running, or that another process has just made part of the study
    again, stays.
    """
    for each in leftovers:
        if not each.is_job:
            remove(each.path)
            yield each
            continue
        lock = job_lock(each.path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            if each.path not in run.superseded():
                continue
            remove_at_once(each.path)
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        for parent in each.path.relative_to(run.path).parents[:-2]:
            # The folders of an agent and an environment without any other job.
            with contextlib.suppress(OSError):
                (run.path / parent).rmdir()
        yield each
