"""What a search may choose: the search space of hyperparameters, from TOML."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean
from spangym.utils.toml import builtin_texts, parse_toml

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Distribution:
    """What one hyperparameter may be: a number between two, or one of several choices.

    Attributes:
        low: The least number; whole numbers are drawn if both bounds are whole.
        high: The greatest.
        log: Whether the logarithm is drawn evenly.
        choices: Values of any kind, instead of bounds.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        bounds = (self.low, self.high)
        if (None in bounds) == (not self.choices):
            raise ValueError("a distribution needs low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and not (self.low or 0) > 0:
            raise ValueError("log needs a low above 0")

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def contains(self, value: Any) -> bool:
        """Whether the value may be drawn.

        Example:
            >>> Distribution(low=1, high=8).contains(3), Distribution(choices=(1, 2)).contains(3)
            (True, False)
        """
        if self.choices:
            return _key(value) in map(_key, self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and math.isfinite(value)

    def index(self, value: Any) -> int:
        """Where a choice stands among the choices."""
        return [*map(_key, self.choices)].index(_key(value))


def builtin_search_spaces() -> dict[str, str]:
    """TOML texts of the search spaces that come with the package, by the agent's name."""
    return builtin_texts("spangym.experiments.tuning", "spaces")


def load_search_space(name: str) -> dict[str, Distribution]:
    """Read a search space.

    Args:
        name: A TOML file, or the name of an agent that has shipped ones.

    Returns:
        Distributions by the hyperparameter's name; that of a key within a table has a dot in it.

    Raises:
        UserError: There are none, or they are wrong.
    """
    shipped = builtin_search_spaces()
    try:
        text = shipped[name] if name in shipped else Path(name).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no search space {name!r}{did_you_mean(name, shipped)}; a file of your own is "
            "named with --search-space"
        ) from error
    return parse_toml(text, name, dict[str, Distribution], Distribution)


def flatten(
    hyperparameters: dict[str, Any], search_space: dict[str, Distribution]
) -> dict[str, Any]:
    """Hyperparameters that have a range, by the range's name.

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


def unflatten(params: dict[str, Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters with what was chosen in their place.

    Example:
        >>> unflatten({"b.c": 2}, {"a": 1, "b": {"d": 0}})
        {'a': 1, 'b': {'d': 0, 'c': 2}}
    """
    made = {
        key: dict(value) if isinstance(value, dict) else value
        for key, value in hyperparameters.items()
    }
    for name, value in params.items():
        *tables, key = name.split(".")
        table = made
        for each in tables:
            if not isinstance(table.get(each), dict):
                # A number, say, that a schedule takes the place of.
                table[each] = {}
            table = table[each]
        table[key] = value
    return made


def _key(value: Any) -> str:
    """Choices are compared as what they are in TOML."""
    return json.dumps(value)
