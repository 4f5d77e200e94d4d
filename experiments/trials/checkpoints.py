"""Checkpoints of a training, with protection against damaged files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spangym.utils.atomic_io import atomic_write
from spangym.utils.serialization import from_bytes, to_bytes

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")


class Checkpoints:
    """A folder with the last two checkpoints of a training; it need not exist.

    The name of a file contains the step and a hash of the content, by which damage is detected.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, step: int, state: Any) -> None:
        """Write a checkpoint at a step atomically and delete all except the one before."""
        content = to_bytes(state)
        self.folder.mkdir(exist_ok=True)
        before = self._files()[-1:]
        path = self.folder / f"step-{step:010d}-{_hash(content)}.safetensors"
        with atomic_write(path) as tmp:
            tmp.write_bytes(content)
        self._keep([*before, path])

    def read(self, log: Callable[[str], None]) -> Any | None:
        """Return the last intact checkpoint, None if there is none; damaged files are logged."""
        for path in reversed(self._files()):
            content = path.read_bytes()
            if path.name.endswith(f"-{_hash(content)}.safetensors"):
                with contextlib.suppress(ValueError):
                    return from_bytes(content)
            log(f"checkpoint {path} is damaged and not used")
        return None

    def prune(self) -> None:
        """Delete all checkpoints except the last."""
        self._keep(self._files()[-1:])

    def remove(self) -> None:
        """Delete all checkpoints, of a training that is finished and cannot be made longer."""
        self._keep([])
        if self.folder.is_dir():
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        """Return the checkpoints, the earliest first."""
        if not self.folder.is_dir():
            return []
        return sorted(each for each in self.folder.iterdir() if _NAME.fullmatch(each.name))

    def _keep(self, wanted: Sequence[Path]) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            # Others include temporary files of a killed process.
            if path not in wanted:
                path.unlink()


class Interval:
    """A timer that elapses again and again, every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def elapsed(self) -> bool:
        """Return whether the time has passed since this last returned True."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
