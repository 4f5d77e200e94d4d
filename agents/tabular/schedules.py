"""Numbers that change as a training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from spangym.utils.suggestions import did_you_mean


@dataclass(frozen=True)
class LinearSchedule:
    """A number that goes from one value to another in a straight line, and then stays.

    Attributes:
        start: Value at the beginning.
        end: Value after ``steps`` steps and ever after.
        steps: How many steps it takes, at least 1.

    Raises:
        ValueError: A field breaks its rule.

    Example:
        >>> epsilon = LinearSchedule(start=1.0, end=0.1, steps=100)
        >>> [round(epsilon(step), 3) for step in (0, 50, 100, 1000)]
        [1.0, 0.55, 0.1, 0.1]
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            number = getattr(self, name)
            if not _is_number(number) or not math.isfinite(number):
                raise ValueError(f"{name} must be a finite number, got {number!r}")
        if not _is_number(self.steps) or not isinstance(self.steps, Integral) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps!r}")

    @classmethod
    def from_config(
        cls, name: str, value: float | LinearSchedule | Mapping[str, Any]
    ) -> LinearSchedule:
        """Read an option that may be a number, a schedule, or a schedule's fields.

        Args:
            name: The option's name, for messages.
            value: A number, which never changes; a schedule; or its fields, as a file gives them.

        Returns:
            The schedule.

        Raises:
            ValueError: It is none of these; a field is unknown, missing or breaks its rule.

        Example:
            >>> LinearSchedule.from_config("alpha", {"start": 0.5, "end": 0.1, "steps": 1000})
            LinearSchedule(start=0.5, end=0.1, steps=1000)
            >>> LinearSchedule.from_config("alpha", {"start": 0.5, "stop": 0.1, "steps": 1000})
            Traceback (most recent call last):
            ValueError: alpha has no field 'stop'; did you mean 'steps'?
        """
        if isinstance(value, LinearSchedule):
            return value
        known = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping):
            if _is_number(value):
                return cls(value, value, 1)
            raise ValueError(f"{name} must be a number or {', '.join(known)}, got {value!r}")
        for field in value:
            if field not in known:
                raise ValueError(f"{name} has no field {field!r}{did_you_mean(field, known)}")
        missing = [field for field in known if field not in value]
        if missing:
            raise ValueError(f"{name} lacks {', '.join(missing)}: it needs {', '.join(known)}")
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which two values it lies."""
        return self.start, self.end

    @property
    def is_constant(self) -> bool:
        """Whether start and end are equal."""
        return self.start == self.end

    def __call__(self, step: int) -> float:
        """The value after so many steps."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
