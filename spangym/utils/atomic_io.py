"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def ensure_suffix(path: Path | str, ending: str) -> Path:
    """The path with an ending added, unless it has it already.

    Example:
        >>> ensure_suffix(Path("alpha0.1"), ".npz").name
        'alpha0.1.npz'
    """
    path = Path(path)
    return path if path.name.endswith(ending) else path.with_name(path.name + ending)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file aside and rename it once it is whole; on an error nothing is left.

    Args:
        path: Where the file is to be.

    Yields:
        Where to write it: the same folder and ending, another name.

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
