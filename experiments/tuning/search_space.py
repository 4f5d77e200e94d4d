"""Search spaces of hyperparameters, from TOML."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spangym.experiments.studies.field_types import Bound, Choices, Flag
from spangym.utils.toml import builtin_texts, find_text, parse_toml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Distribution:
    """Distribution of one hyperparameter: a range of numbers, or choices.

    Attributes:
        low: Lower bound; integers are drawn if both bounds are integers.
        high: Upper bound.
        log: Whether the logarithm is uniform.
        choices: Values of any type, instead of bounds.
    """

    low: Bound = None
    high: Bound = None
    log: Flag = False
    choices: Choices = ()

    def __post_init__(self) -> None:
        if (None in (self.low, self.high)) == (not self.choices):
            raise ValueError("a distribution needs low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and not (self.low or 0) > 0:
            raise ValueError("log needs a low above 0")

    def contains(self, value: Any) -> bool:
        """Return whether the value can be drawn.

        Example:
            >>> Distribution(low=1, high=8).contains(3), Distribution(choices=(1, 2)).contains(3)
            (True, False)
        """
        if self.choices:
            return json.dumps(value) in map(json.dumps, self.choices)
        kind = int if self._is_integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and math.isfinite(value)

    def to_optuna(self) -> BaseDistribution:
        """Return Optuna's distribution; choices are given by index, since they may be lists."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(range(len(self.choices)))
        integer, real = distributions.IntDistribution, distributions.FloatDistribution
        kind: Any = integer if self._is_integer else real
        return kind(self.low, self.high, log=self.log)

    def encode(self, value: Any) -> Any:
        """Convert a hyperparameter to Optuna's value."""
        return [*map(json.dumps, self.choices)].index(json.dumps(value)) if self.choices else value

    def decode(self, value: Any) -> Any:
        """Convert Optuna's value to a hyperparameter."""
        return self.choices[value] if self.choices else value

    @property
    def _is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


def builtin_search_spaces() -> dict[str, str]:
    """Return the TOML texts of the shipped search spaces by agent name."""
    return builtin_texts("spangym.experiments.tuning", "spaces")


def load_search_space(name: str) -> dict[str, Distribution]:
    """Load a search space: a TOML file, or the shipped one of an agent.

    Returns:
        Distribution of each hyperparameter; dots separate the keys of nested tables.
    """
    text = find_text("search space", name, builtin_search_spaces())
    return parse_toml(text, name, dict[str, Distribution])


def flatten(
    hyperparameters: dict[str, Any], search_space: dict[str, Distribution]
) -> dict[str, Any]:
    """Return the searched hyperparameters by dotted name.

    Example:
        >>> flatten({"a": 1, "b": {"c": 2}}, {"b.c": Distribution(low=1, high=3)})
        {'b.c': 2}
    """
    found = {}
    for name in search_space:
        value: Any = hyperparameters
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found
