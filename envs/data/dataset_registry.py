"""Sources by name: those that are shipped, and files and folders of the user's own."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

from spangym.envs.data.dataset import (
    LettersSource,
    NoiseSource,
    RepetitionSource,
    Source,
    TextSource,
    mixed,
)
from spangym.envs.data.tasks import (
    CollapseSource,
    HierarchySource,
    LongRangeSource,
    PrecisionSource,
    SparsitySource,
)
from spangym.utils.suggestions import did_you_mean

SOURCES: dict[str, Callable[[str], Source]] = {
    "text": TextSource,
    "documentation": lambda split: TextSource(split, ["documentation"]),
    "code": lambda split: TextSource(split, ["code"]),
    "noise": lambda _: NoiseSource(),
    "digits": lambda _: NoiseSource(string.digits.encode(), "random digits"),
    "letters": lambda _: LettersSource(),
    "repetition": lambda split: RepetitionSource(TextSource(split)),
    "mixed": mixed,
    "long-range": lambda _: LongRangeSource(),
    "collapse": lambda _: CollapseSource(),
    "precision": lambda _: PrecisionSource(),
    "hierarchy": lambda _: HierarchySource(),
    "sparsity": lambda _: SparsitySource(),
}
"""Shipped sources by name; each is made for a split."""


def open_source(name: str, split: str) -> Source:
    """Make a source.

    Args:
        name: A shipped name, or a file or folder: see `spangym.envs.data.files.open_files`. Where a
            file has a shipped name, ``./`` before it means the file.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: There is no such source, or its files cannot be read.
    """
    check_source(name)
    if name in SOURCES:
        return SOURCES[name](split)
    # Imported here: signal processing takes long to import, and few need it.
    from spangym.envs.data.files import open_files

    return open_files(name, split)


def check_source(name: str) -> None:
    """Refuse a name of no source.

    Raises:
        ValueError: It is neither a shipped source nor a file or folder.
    """
    if name not in SOURCES and not _is_path(name):
        raise ValueError(
            f"source {name!r} is neither shipped nor a file or folder{did_you_mean(name, SOURCES)}"
        )


def _is_path(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except OSError:  # Too long a name, or a folder that may not be entered.
        return False
