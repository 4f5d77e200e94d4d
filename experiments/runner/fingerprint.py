"""What numbers hang on, as hashes: what is of one content is one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from spangym.envs.data.dataset import SPLITS
from spangym.envs.data.dataset_registry import make_dataset


class DatasetHashes:
    """Hashes of what sources read; each is looked at once.

    Example:
        >>> DatasetHashes().get("noise")
        {'train': {}, 'evaluation': {}}
    """

    def __init__(self) -> None:
        self._hashes: dict[str, dict[str, dict[str, str]]] = {}

    def get(self, source: str) -> dict[str, dict[str, str]]:
        """Hashes of what a source reads, by split and kind."""
        if source not in self._hashes:
            self._hashes[source] = {
                split: make_dataset(source, split).fingerprint() for split in SPLITS
            }
        return self._hashes[source]


def config_hash(content: dict[str, Any]) -> str:
    """A hash of what JSON can hold, 16 hexadecimal digits.

    Example:
        >>> config_hash({"seed": 0, "steps": 64}) == config_hash({"steps": 64, "seed": 0})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
