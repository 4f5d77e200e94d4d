"""Notices that a folder is moved or deleted while a run writes to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from spangym.utils.text import shell_join


class FolderWatch:
    """A folder that must stay in its place.

    Args:
        folder: The folder, which exists.
        resume: Words of the command that resumes the run, to which the folder is appended.
    """

    def __init__(self, folder: Path, *resume: str) -> None:
        self._folder = folder.absolute()
        self._resume = resume
        self._stat = self._folder.stat()
        # An open folder is found again wherever it is moved, which only Linux can tell.
        self._handle = os.open(folder, os.O_RDONLY) if Path("/proc/self/fd").is_dir() else None

    def close(self) -> None:
        """Release the folder."""
        if self._handle is not None:
            os.close(self._handle)

    def check(self) -> None:
        """Raise a `FileNotFoundError` if the folder is no longer in its place."""
        if not self._is_in_place():
            raise FileNotFoundError(errno.ENOENT, "moved or deleted", str(self._folder))

    def describe_move(self) -> str:
        """Return where the folder is and how the run is resumed there; empty if in its place."""
        if self._is_in_place():
            return ""
        name = repr(str(self._folder))
        if self._handle is not None and os.fstat(self._handle).st_nlink:
            place = str(Path(f"/proc/self/fd/{self._handle}").readlink())
            command = shell_join([*self._resume, place])
            return (
                f"folder {name} was moved to {place!r} during the run; what was written is kept, "
                f"resume with: {command}"
            )
        command = shell_join([*self._resume, "NEW_FOLDER"])
        return (
            f"folder {name} was deleted during the run, or moved to another file system: if it was "
            f"moved, resume with: {command}"
        )

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._folder.stat(), self._stat)
        except OSError:
            return False
