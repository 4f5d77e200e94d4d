"""Checkpoints of a training: whole or not there, and known to be whole when they are read."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spangym.utils.atomic_io import atomic_write
from spangym.utils.serialization import from_bytes, to_bytes

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoints:
    """A folder of checkpoints, of which the last two are kept.

    The name of a file holds the step and a hash of the content, so that a damaged one is never
    taken for whole.

    Args:
        folder: The folder; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, step: int, tree: Any) -> None:
        """Write a checkpoint, whole or not at all, and delete all but the one before.

        Args:
            step: Of the training.
            tree: What `spangym.utils.serialization` can store.
        """
        content = to_bytes(tree)
        self.folder.mkdir(exist_ok=True)
        before = self._files()[-1:]
        path = self.folder / f"step-{step:010d}-{_hash(content)}.safetensors"
        with atomic_write(path) as tmp:
            tmp.write_bytes(content)
        self._keep([*before, path])

    def read(self, log: Callable[[str], None]) -> Any | None:
        """The last checkpoint that is whole; None if there is none.

        Args:
            log: Called with each that is damaged.
        """
        for path in reversed(self._files()):
            content = path.read_bytes()
            if path.name.endswith(f"-{_hash(content)}.safetensors"):
                return from_bytes(content)
            log(f"checkpoint {path} is damaged and not used")
        return None

    def prune(self) -> None:
        """Delete all checkpoints but the last."""
        self._keep(self._files()[-1:])

    def _files(self) -> list[Path]:
        """Checkpoints, the earliest first."""
        if not self.folder.is_dir():
            return []
        return sorted(each for each in self.folder.iterdir() if _NAME.fullmatch(each.name))

    def _keep(self, wanted: list[Path]) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path not in wanted:
                # What a killed process was writing, among others.
                path.unlink()


class Interval:
    """Says when so many seconds have passed since it last said so.

    Args:
        seconds: How many.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def elapsed(self) -> bool:
        """Whether they have passed."""
        now = time.monotonic()
        due = now - self._last >= self._seconds
        if due:
            self._last = now
        return due


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
