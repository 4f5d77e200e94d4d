"""Linear schedules of the learning rate and of exploration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from spangym.utils.suggestions import did_you_mean

_FIELDS = ("start", "end", "steps")


@dataclass(frozen=True)
class LinearSchedule:
    """Linear interpolation from one value to another, constant afterwards.

    Attributes:
        start: Value at step 0.
        end: Value from step ``steps`` on.
        steps: Number of steps of the interpolation, at least 1.

    Example:
        >>> epsilon = LinearSchedule(start=1.0, end=0.1, steps=100)
        >>> [round(epsilon(step), 3) for step in (0, 50, 100, 1000)]
        [1.0, 0.55, 0.1, 0.1]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        for name, number in (("start", self.start), ("end", self.end)):
            if not _is_number(number) or not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number, got {number!r}")
        if not _is_number(self.steps) or not isinstance(self.steps, Integral) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps!r}")

    @classmethod
    def from_config(
        cls, name: str, value: float | LinearSchedule | Mapping[str, Any]
    ) -> LinearSchedule:
        """Convert an option: a constant, a schedule, or the fields of a schedule.

        Example:
            >>> LinearSchedule.from_config("alpha", {"start": 0.5, "end": 0.1, "steps": 1000})
            LinearSchedule(start=0.5, end=0.1, steps=1000)
            >>> LinearSchedule.from_config("alpha", {"start": 0.5, "stop": 0.1, "steps": 1000})
            Traceback (most recent call last):
            ValueError: alpha has no field 'stop'; did you mean 'steps'?
        """
        if isinstance(value, LinearSchedule):
            return value
        if not isinstance(value, Mapping):
            if _is_number(value):
                return cls(value, value, 1)
            raise ValueError(f"{name} must be a number or {', '.join(_FIELDS)}, got {value!r}")
        for field in value:
            if field not in _FIELDS:
                raise ValueError(f"{name} has no field {field!r}{did_you_mean(field, _FIELDS)}")
        if missing := [field for field in _FIELDS if field not in value]:
            raise ValueError(f"{name} lacks {', '.join(missing)}: it needs {', '.join(_FIELDS)}")
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    @property
    def is_constant(self) -> bool:
        """Whether start and end are equal."""
        return self.start == self.end

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
