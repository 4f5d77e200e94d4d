"""Hashes of configurations and datasets: equal content has equal hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from spangym.envs.data.dataset import SPLITS
from spangym.envs.data.dataset_registry import make_dataset
from spangym.utils.process_state import preserve_process_state


class DatasetHashes:
    """Hashes of the content of datasets; each dataset is read once.

    Example:
        >>> DatasetHashes().get("noise")
        {'train': {}, 'evaluation': {}}
    """

    def __init__(self) -> None:
        self._hashes: dict[str, dict[str, dict[str, str]]] = {}

    def get(self, dataset: str) -> dict[str, dict[str, str]]:
        """Return the hashes of a dataset's content, by split and content type."""
        if dataset not in self._hashes:
            with preserve_process_state():
                self._hashes[dataset] = {
                    split: make_dataset(dataset, split).fingerprint() for split in SPLITS
                }
        return self._hashes[dataset]


def config_hash(config: dict[str, Any]) -> str:
    """Return a hash of a JSON-compatible configuration, 16 hexadecimal digits.

    Example:
        >>> config_hash({"seed": 0, "steps": 64}) == config_hash({"steps": 64, "seed": 0})
        True
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
