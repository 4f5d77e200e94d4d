"""Linear schedules of the learning rate and of exploration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spangym.utils.scalars import PositiveInt, as_float, normalize_fields
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
    steps: PositiveInt

    def __post_init__(self) -> None:
        normalize_fields(self)

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
            try:
                number = as_float(name, value)
            except TypeError as error:
                raise TypeError(f"{error}; a schedule has {', '.join(_FIELDS)}") from error
            return cls(number, number, 1)
        for field in value:
            if field not in _FIELDS:
                raise ValueError(f"{name} has no field {field!r}{did_you_mean(field, _FIELDS)}")
        if missing := [field for field in _FIELDS if field not in value]:
            raise ValueError(f"{name} lacks {', '.join(missing)}: it needs {', '.join(_FIELDS)}")
        try:
            return cls(**value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error

    @property
    def is_constant(self) -> bool:
        """Whether start and end are equal."""
        return self.start == self.end

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)
