"""Sizes of folders, and their removal."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def folder_size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    size = path.lstat().st_size if not path.is_dir() else 0
    for each in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += each.lstat().st_size
    return size


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; it need not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_at_once(folder: Path) -> None:
    """Remove a folder that nobody sees half removed: it is hidden first."""
    hidden = folder.with_name(f".{os.getpid()}-{folder.name}")
    folder.rename(hidden)
    remove(hidden)
