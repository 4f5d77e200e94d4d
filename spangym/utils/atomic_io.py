"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def with_ending(path: Path | str, ending: str) -> Path:
    """The path with an ending added, unless it has it already.

    Example:
        >>> with_ending(Path("alpha0.1"), ".npz").name
        'alpha0.1.npz'
    """
    path = Path(path)
    return path if path.name.endswith(ending) else path.with_name(path.name + ending)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file aside and rename it once it is whole; on an error nothing is left.

    Args:
        path: Where the file is to be.

    Yields:
        Where to write it: the same folder and ending, another name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder, "a.txt")) as aside:
        ...         _ = aside.write_text("all of it")
        ...     [each.name for each in Path(folder).iterdir()]
        ['a.txt']
    """
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
