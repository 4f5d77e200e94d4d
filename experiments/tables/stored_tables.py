"""The tables in the cache folder: which are of use, and removal of the others; without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from spangym.envs.tables.table_folder import (
    BLOCK_FILE,
    METADATA_FILE,
    PARTS,
    REQUEST_FILE,
    current_versions,
    read_metadata,
    table_lock,
    tables_dir,
)
from spangym.experiments.runner.workload import format_bytes
from spangym.utils.folders import folder_size, remove_at_once

_OTHER = {"code_sha256": "other code of spangym", "torch": "another version of torch"}


@dataclass(frozen=True)
class StoredTable:
    """A folder of the tables' folder.

    Attributes:
        path: The folder.
        state: ``usable`` by the installed code; ``stale``, since it was made by other code;
            ``incomplete``, and resumed by what has begun it; or ``damaged``.
        size: Size in bytes.
        description: Environment, levels, size and state in words.
    """

    path: Path
    state: Literal["usable", "stale", "incomplete", "damaged"]
    size: int
    description: str


def stored_tables() -> list[StoredTable]:
    """Return all tables, and what interrupted or damaged ones have left."""
    folder = tables_dir()
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [_read(path) for path in paths if path.is_dir()]


def _read(path: Path) -> StoredTable:
    size = folder_size(path)
    is_incomplete = path.name.endswith(PARTS)
    try:
        if path.name.startswith("."):
            raise ValueError("it is being written, or its process was killed")
        metadata = read_metadata(path, REQUEST_FILE if is_incomplete else METADATA_FILE)
        name = str(metadata["env_id"]).rpartition("/")[2]
        first, number = metadata["start_level"], metadata["num_levels"]
        text = f"{name}, levels {first:,} to {first + number - 1:,}, {format_bytes(size)}"
        reasons = _differences(metadata)
    except (KeyError, TypeError, ValueError):
        return StoredTable(path, "damaged", size, f"incomplete or damaged, {format_bytes(size)}")
    if reasons:
        return StoredTable(path, "stale", size, f"{text}, stale: made by {' and '.join(reasons)}")
    if is_incomplete:
        done = f"{_count_levels(path):,} of {number:,} levels are done"
        return StoredTable(path, "incomplete", size, f"{text}, incomplete: {done}")
    return StoredTable(path, "usable", size, text)


def _count_levels(parts: Path) -> int:
    bounds = (path.parent.name.partition("-") for path in parts.glob(f"*/{BLOCK_FILE}"))
    return sum(int(last) - int(first) + 1 for first, _, last in bounds)


def _differences(metadata: dict[str, Any]) -> list[str]:
    identity = metadata["identity"]
    return [
        _OTHER[name] for name, value in current_versions().items() if identity.get(name) != value
    ]


def remove_tables(tables: list[StoredTable]) -> Iterator[StoredTable]:
    """Remove tables that no process is making, and yield them."""
    for each in tables:
        lock = table_lock(each.path.with_name(each.path.name.removesuffix(PARTS).lstrip(".")))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            remove_at_once(each.path)
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
        yield each
