"""Types of the fields of studies: plain values, and the bounds of all numbers.

Environment arguments have their bounds in `spangym.envs.EnvConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from spangym.utils.scalars import as_float, as_int, plain
from spangym.utils.text import printable, slug

MAX_STEPS = 10**10
"""Most steps of one training."""

MAX_SEEDS = 10**4
"""Most training seeds."""

MAX_EPISODES = 10**5
"""Most evaluation episodes."""

MAX_NUMBER = 10**12
"""Largest magnitude of a number that has no other bound, such as a hyperparameter."""


def expand_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Return the seeds counted from 0, if their number is given.

    Example:
        >>> expand_seeds(3), expand_seeds([7])
        ((0, 1, 2), (7,))
    """
    if isinstance(seeds, Sequence):
        return tuple(as_int("seed", each, 0, 2**31 - 1) for each in seeds)
    return tuple(range(as_int("seeds", seeds, 1, MAX_SEEDS)))


def check_numbers(value: Any, where: str = "") -> Any:
    """Return nested values as plain ones.

    Raises:
        ValueError: A number is not finite, or its magnitude exceeds `MAX_NUMBER`; the message names
            its key and the bound.
    """
    value = plain(value)
    if isinstance(value, dict):
        for name, each in value.items():
            check_numbers(each, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for each in value:
            check_numbers(each, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        as_float(where or "number", value, -MAX_NUMBER, MAX_NUMBER)
    return value


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _as_seeds(value: Any) -> Any:
    """Return a list of seeds, or their number as seeds counted from 0."""
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return expand_seeds(value)
    # In strict mode a list is no tuple.
    return tuple(value) if isinstance(value, list) else value


def _folder_name(name: str) -> str:
    """Check that a name without its unsafe characters is a folder name."""
    if not slug(name).strip("-"):
        raise ValueError(
            f"a name must have a letter or digit of ASCII, of which its folder is named, got "
            f"{name!r}"
        )
    return name


_PLAIN = BeforeValidator(plain)
Flag = Annotated[bool, _PLAIN]
Text = Annotated[str, _PLAIN]
DisplayName = Annotated[str, Field(max_length=80), BeforeValidator(_printable), _PLAIN]
StudyName = Annotated[
    str, Field(max_length=80), AfterValidator(_folder_name), BeforeValidator(_printable), _PLAIN
]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), _PLAIN]
Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1, max_length=MAX_SEEDS), BeforeValidator(_as_seeds)
]
SeedsOrNone = Annotated[tuple[Seed, ...], Field(max_length=MAX_SEEDS), BeforeValidator(_as_seeds)]
Level = Annotated[int, Field(ge=0, le=2**31 - 1), _PLAIN]
NumLevels = Annotated[int, Field(ge=0, le=2**31), _PLAIN]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), _PLAIN]
StepsOrZero = Annotated[int, Field(ge=0, le=MAX_STEPS), _PLAIN]
Episodes = Annotated[int, Field(ge=1, le=MAX_EPISODES), _PLAIN]
Size = Annotated[int, Field(ge=1, le=2**20), _PLAIN]
SizeOrZero = Annotated[int, Field(ge=0, le=2**20), _PLAIN]
Count = Annotated[int, Field(ge=1, le=10**6), _PLAIN]
CountOrZero = Annotated[int, Field(ge=0, le=10**6), _PLAIN]
Fraction = Annotated[float, Field(ge=0, le=1), _PLAIN]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6), _PLAIN]
PositiveFloat = Annotated[float, Field(gt=0, le=1e6), _PLAIN]
Hyperparameters = Annotated[dict[str, Any], AfterValidator(check_numbers)]
EnvKwargs = Annotated[dict[str, Any], AfterValidator(plain)]
Bound = Annotated[int | float | None, BeforeValidator(check_numbers)]
Choices = Annotated[tuple[Any, ...], AfterValidator(check_numbers)]
