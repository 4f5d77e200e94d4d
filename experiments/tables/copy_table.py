"""Copies of tables in the cache folders of other machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spangym.envs.tables.table_folder import METADATA_FILE, table_lock, tables_dir
from spangym.experiments.runner.job_files import is_inside
from spangym.utils.folders import remove
from spangym.utils.text import printable

Files = dict[str, NDArray[np.uint8]]
"""Content of the files of a table, by name."""


def pack_table(path: Path) -> Files:
    """Read the files of a table."""
    return {each.name: np.fromfile(each, np.uint8) for each in sorted(path.iterdir())}


def install_table(name: str, get_files: Callable[[], Files]) -> Path:
    """Write a table to the cache folder of this machine, atomically, unless it is there.

    Args:
        name: Name of the table.
        get_files: Function that returns its files, called only if they are needed.

    Raises:
        ValueError: The name of the table or of a file is not one in the folder.
    """
    _check_name(name)
    path = tables_dir() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Jobs that start at the same time on this machine wait for one copy.
    with table_lock(path):
        if (path / METADATA_FILE).exists():
            return path
        tmp = path.with_name(f".{os.getpid()}-{name}")
        remove(tmp)
        tmp.mkdir()
        for file, content in get_files().items():
            _check_name(file)
            content.tofile(tmp / file)
        remove(path)
        tmp.rename(path)
    return path


def _check_name(name: str) -> None:
    if "/" in name or not is_inside(name):
        raise ValueError(f"{printable(name)!r} is no name of a table or of a file in it")
