"""Datasets by name: the builtin ones, and the user's files and folders."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spangym.envs.data.dataset import (
    Dataset,
    NoiseDataset,
    RepeatedLetterDataset,
    RepetitionDataset,
    TextDataset,
    default_mixture,
)
from spangym.envs.data.deadlines import DeadlinesDataset
from spangym.envs.data.depth import DepthDataset
from spangym.envs.data.pretrained_mixture import make_pretrained_mixture
from spangym.envs.data.tasks import (
    CollapseDataset,
    HierarchyDataset,
    LongRangeDataset,
    PrecisionDataset,
    SparsityDataset,
    TaskDataset,
)
from spangym.utils.errors import describe_error
from spangym.utils.importing import import_class, is_import_path
from spangym.utils.signatures import construct, method_problem, parameters_of, source_location
from spangym.utils.suggestions import did_you_mean

TASKS: dict[str, type[TaskDataset]] = {
    "long-range": LongRangeDataset,
    "collapse": CollapseDataset,
    "precision": PrecisionDataset,
    "hierarchy": HierarchyDataset,
    "sparsity": SparsityDataset,
}
"""Classes of the builtin datasets with an argument ``difficulty``."""


def _task(cls: type[TaskDataset]) -> Callable[[str], Dataset]:
    return lambda _: cls()


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "text": TextDataset,
    "documentation": lambda split: TextDataset(split, ["documentation"]),
    "code": lambda split: TextDataset(split, ["code"]),
    "noise": lambda _: NoiseDataset(),
    "digits": lambda _: NoiseDataset(string.digits.encode(), "random digits"),
    "letters": lambda _: RepeatedLetterDataset(),
    "repetition": lambda split: RepetitionDataset(TextDataset(split)),
    "mixed": default_mixture,
    "pretrained-mixture": make_pretrained_mixture,
    **{name: _task(cls) for name, cls in TASKS.items()},
    "depth": lambda _: DepthDataset(),
    "depth-lessons": lambda _: DepthDataset(all_targets=True),
    "kv-cache": lambda _: DeadlinesDataset(),
}
"""Constructors of the builtin datasets, called with the split; tasks have all difficulties."""


DatasetName = str | Sequence[str]
"""Name of a dataset: builtin, ``module:Class``, a file, a folder, or several files."""


def make_dataset(
    name: DatasetName, split: str, kwargs: Mapping[str, Any] = MappingProxyType({})
) -> Dataset:
    """Make a dataset.

    Args:
        name: A builtin name; ``module:Class`` of a `Dataset`, which is called with ``split``, if it
            has this argument; the path of a file or folder; or a list of files, which are read as a
            folder that holds them (`spangym.envs.data.files.make_file_dataset`). If a file has a
            name of another kind, write ``./`` before it.
        split: ``train`` or ``evaluation``.
        kwargs: Other arguments of a class; of a task ``difficulty``.

    Raises:
        ValueError: The dataset does not exist, its files cannot be read, or the class cannot be
            called with these arguments.
    """
    validate_dataset_name(name)
    if isinstance(name, str) and is_import_path(name):
        cls = find_dataset_class(name)
        arguments = {"split": split} if "split" in parameters_of(cls) else {}
        try:
            return construct(cls, {**arguments, **kwargs})
        except Exception as error:  # Users' constructors may raise anything.
            raise ValueError(f"dataset {name!r} cannot be made: {describe_error(error)}") from error
    if isinstance(name, str) and name in TASKS:
        return TASKS[name](**kwargs)
    if kwargs:
        raise ValueError(f"dataset {name!r} takes no arguments: only module:Class does")
    if isinstance(name, str) and name in DATASETS:
        return DATASETS[name](split)
    # Signal processing is slow to import, and rarely needed.
    from spangym.envs.data.files import make_file_dataset

    return make_file_dataset(name, split)


def find_dataset_class(name: str) -> type[Dataset]:
    """Import the class of a user's dataset by ``module:Class``.

    Raises:
        ValueError: There is no such class, it is no `Dataset`, or it lacks a method.
    """
    found = import_class(name, f"dataset {name!r}")
    if not issubclass(found, Dataset):
        raise ValueError(f"dataset {name!r} is not a subclass of spangym.envs.Dataset")
    if problem := method_problem(found, "sample", "generator, chunks, ctx"):
        where = source_location(found, "sample")
        raise ValueError(f"dataset {name!r}: {where}{problem}")
    return found


def validate_dataset_name(name: DatasetName) -> None:
    """Raise a `ValueError` if a name is no builtin dataset, class, file or folder, or files."""
    if not isinstance(name, str):
        if missing := [each for each in name if not _is_path(each)]:
            raise ValueError(f"dataset {missing[0]!r} is not a file: a list must hold files only")
        if not name:
            raise ValueError("dataset must be a name, a path, or a list of at least one file")
    elif is_import_path(name):
        find_dataset_class(name)
    elif name not in DATASETS and not _is_path(name):
        hint = did_you_mean(name, DATASETS)
        raise ValueError(f"dataset {name!r} is neither a builtin name nor a file or folder{hint}")


def _is_path(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except OSError:  # The name is too long, or a folder is not accessible.
        return False
