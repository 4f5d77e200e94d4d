"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
