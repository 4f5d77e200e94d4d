"""Numbers, truth values and names that users pass, as plain Python values.

A value of NumPy or PyTorch and the equal Python number give the same configuration, the same JSON
and the same hash.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Interval

PositiveInt = Annotated[int, Interval(ge=1)]
NonNegativeFloat = Annotated[float, Interval(ge=0)]


def plain(value: Any) -> Any:
    """Convert scalars of NumPy and PyTorch, paths and devices to Python values, also in containers.

    Example:
        >>> import numpy as np, torch
        >>> plain({"steps": np.int64(2), "sizes": (np.float32(0.5), torch.tensor(3))})
        {'steps': 2, 'sizes': (0.5, 3)}
    """
    if isinstance(value, Mapping):
        return {plain(name): plain(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # PyTorch takes seconds to import.
    is_device = (type(value).__module__, type(value).__name__) == ("torch", "device")
    return str(value) if is_device else value


def as_int(name: str, value: object, low: float | None = None, high: float | None = None) -> int:
    """Convert an integer of any library, zero-dimensional arrays included.

    Raises:
        TypeError: The value is no integer. A truth value and ``2.0`` are none.
        ValueError: The value is not in low..high.

    Example:
        >>> import numpy as np
        >>> as_int("heads", np.int64(4), 1)
        4
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {describe(value)}")
    return _check_range(name, operator.index(number), Interval(ge=low, le=high))


def as_float(
    name: str, value: object, low: float | None = None, high: float | None = None
) -> float:
    """Convert a real number of any library, zero-dimensional arrays included.

    Raises:
        TypeError: The value is no real number. A truth value is none.
        ValueError: The value is not finite, or not in low..high.
    """
    return _check_range(name, _to_float(name, value), Interval(ge=low, le=high))


def as_bool(name: str, value: object) -> bool:
    """Convert a truth value; a TypeError for anything else, such as 0 and 1."""
    flag = plain(value)
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be true or false, got {describe(value)}")
    return flag


def as_str(name: str, value: object) -> str:
    """Convert a text, a path or a device; a TypeError for anything else."""
    text = plain(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, got {describe(value)}")
    return str(text)


def normalize_fields(config: Any) -> None:
    """Convert the scalar fields of a frozen dataclass to plain values, and check their bounds.

    Fields of the types ``int``, ``float``, ``bool``, ``str`` and ``dict`` are converted. Bounds are
    given as ``Annotated[int, Interval(ge=1, le=9)]``.

    Raises:
        TypeError: A field has another type; the message names both.
        ValueError: A number is out of bounds.
    """
    for name, kind, interval in _scalar_fields(type(config)):
        value: Any = _CONVERTERS[kind](name, getattr(config, name))
        if interval is not None:
            _check_range(name, value, interval)
        object.__setattr__(config, name, value)


def check_fields(cls: type, values: Mapping[str, Any]) -> None:
    """Check values by name as `normalize_fields` does, without making the dataclass.

    Names that are not of scalar fields are ignored.

    Raises:
        TypeError: A value has another type.
        ValueError: A number is out of bounds.
    """
    for name, kind, interval in _scalar_fields(cls):
        if name in values:
            value: Any = _CONVERTERS[kind](name, values[name])
            if interval is not None:
                _check_range(name, value, interval)


def describe(value: object) -> str:
    """The value, if it is short, and its type, for error messages.

    Example:
        >>> describe("two"), describe([0] * 100), describe(int)
        ("'two' (str)", 'an object of type list', 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str | numbers.Number):
        return f"{_shorten(value)} ({kind})"
    return f"an object of type {kind}"


def _to_float(name: str, value: object) -> float:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"{name} must be a number, got {describe(value)}")
    try:
        converted = float(number)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise ValueError(f"{name} must be finite, got {converted}")
    return converted


def _as_dict(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a table of arguments, got {describe(value)}")
    return plain(value)


_CONVERTERS: dict[type, Any] = {
    int: as_int,
    float: _to_float,
    bool: as_bool,
    str: as_str,
    dict: _as_dict,
}


@functools.cache
def _scalar_fields(cls: type) -> tuple[tuple[str, type, Interval | None], ...]:
    """Name, type and bounds of the scalar fields."""
    fields = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        kind, *metadata = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        kind = str if get_origin(kind) is Literal else get_origin(kind) or kind
        if kind in _CONVERTERS:
            intervals = [each for each in metadata if isinstance(each, Interval)]
            fields.append((name, kind, intervals[0] if intervals else None))
    return tuple(fields)


def _check_range(name: str, number: Any, interval: Interval) -> Any:
    low, high = interval.ge, interval.le
    if low is not None and high is not None:
        if not low <= number <= high:
            rule = f"in {low}..{high}" if isinstance(number, int) else f"in [{low}, {high}]"
            raise ValueError(f"{name} must be {rule}, got {_shorten(number)}")
        return number
    for bound, holds, rule in (
        (interval.ge, operator.ge, "at least"),
        (interval.gt, operator.gt, "above"),
        (interval.le, operator.le, "at most"),
        (interval.lt, operator.lt, "below"),
    ):
        if bound is not None and not holds(number, bound):
            raise ValueError(f"{name} must be {rule} {bound}, got {_shorten(number)}")
    return number


def _shorten(value: object) -> str:
    """A value as text, of which at most 40 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits.
        return "a number of more than 4300 digits"
    return text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"
