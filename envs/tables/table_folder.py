"""The folder of all tables, read without PyTorch.

NAME/           arrays and ``table.json`` of a complete table
NAME.parts/     finished blocks and ``request.json`` of one that is being made, or was interrupted
.NAME.lock      lock of the process that makes, installs or removes the table

NAME is made of the environment, a hash of everything that affects the numbers, and the levels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

import spangym.attention
import spangym.envs
from spangym.utils.cache import cache_dir

METADATA_FILE = "table.json"
"""File of a table's metadata, written last: a table is complete exactly if it exists."""

REQUEST_FILE = "request.json"
"""File of the metadata of a table that is not complete."""

BLOCK_FILE = "block.safetensors"
"""File of a finished block in its folder, which is named after its first and last level."""

PARTS = ".parts"
"""Suffix of the folder of a table that is not complete."""

_CODE = ("attention", "envs/data", "envs/model")
_CODE_FILES = (
    *("envs/levels.py", "envs/rewards.py", "envs/state.py"),
    *("envs/tables/tabulate.py", "envs/transition.py"),
)
"""Packages and modules that compute the numbers."""


SHIPPED_DIR = Path(__file__).parent / "shipped"
"""Folder of the tables that come with spangym, each a folder as those in the cache folder."""


def tables_dir() -> Path:
    """Return the folder of all tables."""
    return cache_dir() / "tables"


def table_lock(path: Path) -> FileLock:
    """Return the lock of a table, which the system releases when its process ends."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def list_tables() -> dict[Path, dict[str, Any]]:
    """Return the metadata of all complete tables by folder; damaged ones are left out."""
    return _read_all(METADATA_FILE)


def list_shipped() -> dict[Path, dict[str, Any]]:
    """Return the metadata of the tables that come with spangym by folder."""
    return _read_all(METADATA_FILE, SHIPPED_DIR)


def list_parts() -> dict[Path, dict[str, Any]]:
    """Return the metadata of all incomplete tables by the folder of their blocks."""
    return _read_all(REQUEST_FILE)


def _read_all(file: str, folder: Path | None = None) -> dict[Path, dict[str, Any]]:
    found = {}
    for path in sorted(each.parent for each in (folder or tables_dir()).glob(f"*/{file}")):
        # A hidden folder is being written.
        if not path.name.startswith("."):
            with contextlib.suppress(ValueError):
                found[path] = read_metadata(path, file)
    return found


def read_metadata(path: Path, file: str = METADATA_FILE) -> dict[str, Any]:
    """Read the metadata of a table.

    Raises:
        ValueError: The folder holds no complete table.
    """
    try:
        metadata = json.loads((path / file).read_text("utf-8"))
        if not isinstance(metadata, dict) or "identity" not in metadata:
            raise ValueError("it has no identity")
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no complete table: {error}") from error
    return metadata


@functools.cache
def code_sha256() -> str:
    """Return a hash of the modules that compute the numbers of tables."""
    digest = hashlib.sha256()
    roots = {
        "attention": Path(inspect.getfile(spangym.attention)).parent,
        "envs": Path(inspect.getfile(spangym.envs)).parent,
    }
    files = [
        path
        for each in _CODE
        for path in (roots[each.partition("/")[0]] / each.partition("/")[2]).rglob("*.py")
    ]
    files += [roots["envs"] / each.partition("/")[2] for each in _CODE_FILES]
    for path in sorted(files, key=lambda each: each.as_posix()):
        digest.update(f"{path.parent.name}/{path.name}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def current_versions() -> dict[str, str]:
    """Return the parts of a table's identity that the installed code determines."""
    return {"code_sha256": code_sha256(), "torch": importlib.metadata.version("torch")}
