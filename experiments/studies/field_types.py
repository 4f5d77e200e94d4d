"""Types of the fields of studies: plain values, and the bounds of all numbers.

Environment arguments have their bounds in `spangym.envs.EnvConfig`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from spangym.utils.scalars import as_float, plain
from spangym.utils.text import printable

MAX_STEPS = 10**10
"""Most steps of one training."""

MAX_SEEDS = 10**4
"""Most training seeds."""

MAX_EPISODES = 10**5
"""Most evaluation episodes."""

MAX_NUMBER = 10**12
"""Largest magnitude of a number that has no other bound, such as a hyperparameter."""


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


_PLAIN = BeforeValidator(plain)
Flag = Annotated[bool, _PLAIN]
Text = Annotated[str, _PLAIN]
DisplayName = Annotated[str, Field(max_length=80), BeforeValidator(_printable), _PLAIN]
StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=80), _PLAIN]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), _PLAIN]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), _PLAIN]
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
