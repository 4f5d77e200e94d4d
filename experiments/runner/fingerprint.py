"""Hashes of configurations and datasets: equal content has equal hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from spangym.envs.data.dataset import SPLITS
from spangym.envs.data.dataset_registry import DatasetName, make_dataset
from spangym.utils.process_state import preserve_process_state
from spangym.utils.text import printable


class DatasetHashes:
    """Hashes of the content of datasets; each dataset is read once.

    Example:
        >>> DatasetHashes().get("noise")
        {'train': {}, 'evaluation': {}}
    """

    def __init__(self) -> None:
        self._hashes: dict[str, dict[str, dict[str, str]]] = {}

    def get(
        self, dataset: DatasetName, kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> dict[str, dict[str, str]]:
        """Return the hashes of a dataset's content, by split and content type.

        ``kwargs`` are the arguments of a user's class. Its module has its own hash
        (`spangym.envs.EnvConfig.module_hashes`).
        """
        key = dataset_key(dataset, kwargs)
        if key not in self._hashes:
            with preserve_process_state():
                fingerprints = {
                    split: make_dataset(dataset, split, kwargs).fingerprint() for split in SPLITS
                }
            # A dataset of the user's own may give any names.
            self._hashes[key] = {
                split: {printable(name): sha256 for name, sha256 in hashes.items()}
                for split, hashes in fingerprints.items()
            }
        return self._hashes[key]


def dataset_key(dataset: DatasetName, kwargs: Mapping[str, Any]) -> str:
    """Return the name of a dataset with its arguments, if it has any, or the names of its files.

    Example:
        >>> dataset_key("my_data:Ramp", {"step": 2})
        'my_data:Ramp {"step": 2}'
        >>> dataset_key(["one.txt", "two.txt"], {})
        '["one.txt", "two.txt"]'
    """
    if not isinstance(dataset, str):
        return json.dumps(list(dataset))
    return f"{dataset} {json.dumps(dict(kwargs), sort_keys=True)}" if kwargs else dataset


def config_hash(config: dict[str, Any]) -> str:
    """Return a hash of a JSON-compatible configuration, 16 hexadecimal digits.

    Example:
        >>> config_hash({"seed": 0, "steps": 64}) == config_hash({"steps": 64, "seed": 0})
        True
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
