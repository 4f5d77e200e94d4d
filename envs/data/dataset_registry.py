"""Datasets by name: those that are shipped, and files and folders of the user's own."""

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
"""Shipped datasets by name; each is made for a split."""


def make_dataset(name: str, split: str) -> Dataset:
    """Make a dataset.

    Args:
        name: A shipped name, or a file or folder: see `spangym.envs.data.files.make_file_dataset`. Where a
            file has a shipped name, ``./`` before it means the file.
        split: ``train`` or ``evaluation``.

    Raises:
        ValueError: There is no such dataset, or its files cannot be read.
    """
    validate_dataset_name(name)
    if name in DATASETS:
        return DATASETS[name](split)
    # Imported here: signal processing takes long to import, and few need it.
    from spangym.envs.data.files import make_file_dataset

    return make_file_dataset(name, split)


def validate_dataset_name(name: str) -> None:
    """Refuse a name of no dataset.

    Raises:
        ValueError: It is neither a shipped dataset nor a file or folder.
    """
    if name not in DATASETS and not _is_path(name):
        raise ValueError(
            f"dataset {name!r} is neither shipped nor a file or folder{did_you_mean(name, DATASETS)}"
        )


def _is_path(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except OSError:  # Too long a name, or a folder that may not be entered.
        return False
