"""What a vector environment returned, compared: arrays in dicts, lists and tuples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray


class _Absent:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


def arrays(value: Any, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """All arrays in nested dicts, sequences and arrays of objects, by name."""
    if isinstance(value, np.ndarray):
        yield name, value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from arrays(each, f"{name}[{key!r}]" if name else key)
    elif isinstance(value, list | tuple) or (
        isinstance(value, np.ndarray) and value.dtype == object
    ):
        for index, each in enumerate(value):
            yield from arrays(each, f"{name}[{index}]")


def compare(where: str, name: str, got: Any, wanted: Any, whose: str) -> None:
    """Fail where two nested values differ; ``whose`` says what the wanted one is."""
    found = difference(got, wanted, name)
    if found:
        path, one, other = found
        fail(where, f"{path} is {short_repr(one)}, {whose} it is {short_repr(other)}")


def difference(got: Any, wanted: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Where two nested values first differ, and how."""
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        for key in [*wanted, *(key for key in got if key not in wanted)]:
            inner = f"{path}[{key!r}]" if path else str(key)
            found = difference(got.get(key, ABSENT), wanted.get(key, ABSENT), inner)
            if found:
                return found
        return None
    if _is_sequence(got) and _is_sequence(wanted) and len(got) == len(wanted):
        for index, both in enumerate(zip(got, wanted, strict=True)):
            found = difference(*both, f"{path}[{index}]")
            if found:
                return found
        return None
    return None if _equal(got, wanted) else (path, got, wanted)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == object and value.ndim > 0
    return isinstance(value, list | tuple)


def _equal(one: Any, other: Any) -> bool:
    if any(isinstance(each, Mapping | list | tuple) for each in (one, other)):
        # Those alike have been taken apart by now.
        return False
    if all(np.asarray(each).dtype.kind in "biufc" for each in (one, other)):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def short_repr(value: Any, longest: int = 120) -> str:
    """A value in a line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def fail(where: str, text: str) -> NoReturn:
    """Say that a contract is broken, and where.

    Raises:
        AssertionError: Always.
    """
    raise AssertionError(f"{where}: {text}")
