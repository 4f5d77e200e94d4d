"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from spangym.utils.errors import UserError


def ensure_suffix(path: Path | str, suffix: str) -> Path:
    """Append a suffix to a path unless it is there.

    Example:
        >>> ensure_suffix("alpha0.1", ".json").name
        'alpha0.1.json'
    """
    path = Path(path)
    return path if path.name.endswith(suffix) else path.with_name(path.name + suffix)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a temporary file and rename it when it is complete; an error leaves no file.

    Args:
        path: Path of the final file.

    Yields:
        Path of the temporary file, in the same folder and with the same suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, "a.txt")) as tmp:
        ...         _ = tmp.write_text("all of it")
        ...     [each.name for each in Path(folder).iterdir()]
        ['a.txt']
    """
    tmp = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield tmp
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def check_writable_file(option: str, path: Path) -> None:
    """Refuse a path that cannot be written, before minutes are spent on a measurement.

    Raises:
        UserError: It is a folder or a device, its parent is no folder, or permission is missing.
    """
    if path.is_dir():
        raise UserError(f"{option}: {str(path)!r} is a folder; name a file")
    if path.exists() and not path.is_file():
        # Writing atomically would replace a device or a pipe by a file.
        raise UserError(f"{option}: {str(path)!r} is no regular file; name a file")
    parent = next(each for each in path.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{option}: {str(path)!r} cannot be written, since {str(parent)!r} cannot")
