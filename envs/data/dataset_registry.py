"""Datasets by name: the builtin ones, and the user's files and folders."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

from spangym.envs.data.dataset import (
    Dataset,
    NoiseDataset,
    RepeatedLetterDataset,
    RepetitionDataset,
    TextDataset,
    default_mixture,
)
from spangym.envs.data.tasks import (
    CollapseDataset,
    HierarchyDataset,
    LongRangeDataset,
    PrecisionDataset,
    SparsityDataset,
)
from spangym.utils.suggestions import did_you_mean

DATASETS: dict[str, Callable[[str], Dataset]] = {
    "text": TextDataset,
    "documentation": lambda split: TextDataset(split, ["documentation"]),
    "code": lambda split: TextDataset(split, ["code"]),
    "noise": lambda _: NoiseDataset(),
    "digits": lambda _: NoiseDataset(string.digits.encode(), "random digits"),
    "letters": lambda _: RepeatedLetterDataset(),
    "repetition": lambda split: RepetitionDataset(TextDataset(split)),
    "mixed": default_mixture,
    "long-range": lambda _: LongRangeDataset(),
    "collapse": lambda _: CollapseDataset(),
    "precision": lambda _: PrecisionDataset(),
    "hierarchy": lambda _: HierarchyDataset(),
    "sparsity": lambda _: SparsityDataset(),
}
"""Constructors of the builtin datasets, called with the split."""


def make_dataset(name: str, split: str) -> Dataset:
    """Make a dataset.

    Args:
        name: A builtin name, or the path of a file or folder
            (`spangym.envs.data.files.make_file_dataset`). If a file has a builtin name, write
            ``./`` before it.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: The dataset does not exist, or its files cannot be read.
    """
    validate_dataset_name(name)
    if name in DATASETS:
        return DATASETS[name](split)
    # Signal processing is slow to import, and rarely needed.
    from spangym.envs.data.files import make_file_dataset

    return make_file_dataset(name, split)


def validate_dataset_name(name: str) -> None:
    """Raise a `ValueError` if a name is neither a builtin dataset nor a file or folder."""
    if name not in DATASETS and not _is_path(name):
        hint = did_you_mean(name, DATASETS)
        raise ValueError(f"dataset {name!r} is neither a builtin name nor a file or folder{hint}")


def _is_path(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except OSError:  # The name is too long, or a folder is not accessible.
        return False
