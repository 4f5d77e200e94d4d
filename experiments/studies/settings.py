"""Settings: changes of single values, ``KEY=VALUE`` at the command line or a dict in Python.

A key is the name of a value in a table, after the name of the table and a dot. Names of tables may
contain dots and colons themselves: the longest one that fits counts.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spangym.experiments.studies.field_types import expand_seeds
from spangym.utils.errors import UserError
from spangym.utils.scalars import as_str, describe, plain
from spangym.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True)
class Scope:
    """Tables that have a common name in settings.

    Attributes:
        prefix: Name before the dot; empty for keys without one.
        tables: Tables in which a setting takes effect; they are changed.
        names: Names of the values in the tables; None if there may be any.
        placeholder: What stands for these keys in error messages, such as ``dqn.OPTION``.
    """

    prefix: str
    tables: Sequence[dict[str, Any]]
    names: Collection[str] | None
    placeholder: str = ""

    def find(self, key: str) -> str:
        """Return the part of a key after the prefix; empty if the key is of another scope."""
        if self.prefix and not key.startswith(f"{self.prefix}."):
            return ""
        rest = key[len(self.prefix) + 1 :] if self.prefix else key
        is_known = self.names is None or rest.partition(".")[0] in self.names
        return rest if is_known and all(rest.split(".")) else ""


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """Read settings from ``KEY=VALUE``; a value is one of TOML, or a bare word, which is a string.

    Raises:
        UserError: A word has no ``=`` or no key, a key is given twice, or a value that starts like
            a string, an array or a table is none.

    Example:
        >>> parse_settings(["ctx=64", "reward=task", "dqn.policy_kwargs.net_arch=[32, 32]"])
        {'ctx': 64, 'reward': 'task', 'dqn.policy_kwargs.net_arch': [32, 32]}
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key, text = key.strip(), text.strip()
        if not key or not equals:
            raise UserError(f"a setting has the form KEY=VALUE, such as ctx=64, got {word!r}")
        if key in settings:
            raise UserError(f"setting {key!r} is given twice")
        settings[key] = _parse_value(key, text)
    return settings


def with_arguments(settings: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """Return settings with arguments that are not None; seeds may be a number of them.

    Raises:
        UserError: A value is given as an argument and as a setting, or the seeds are not valid.
    """
    merged = dict(settings)
    for name, value in arguments.items():
        if value is not None and name in merged:
            raise UserError(f"{name} is given twice, by its option and as a setting: omit one")
        if value is not None:
            merged[name] = value
    if isinstance(seeds := merged.get("seeds"), int | Sequence) and not isinstance(seeds, str):
        try:
            merged["seeds"] = expand_seeds(seeds)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
    return merged


def apply_settings(
    settings: Mapping[str, Any], scopes: Sequence[Scope], check: Callable[[], object]
) -> None:
    """Change tables by settings; those of all tables come before those of one.

    Args:
        settings: Values by key.
        scopes: Tables by name. Earlier scopes have precedence over later ones of the same name.
        check: Called after each change; raises a UserError if the tables are not valid.

    Raises:
        UserError: A key is unknown, two keys set the same value, or a value is not valid; the
            message names the key.

    Example:
        >>> table = {"size": 1}
        >>> apply_settings({"box.size": 2}, [Scope("box", [table], ["size"])], lambda: None)
        >>> table
        {'size': 2}
    """
    for key in settings:
        as_str("name of a setting", key)
    found = [(*_find(key, scopes), key) for key in settings]
    setters: dict[tuple[int, str], str] = {}
    for scope, path, key in sorted(found, key=lambda each: (bool(each[0].prefix), len(each[1]))):
        value = plain(settings[key])
        if not _is_plain(value):
            wanted = "a number, a string, true or false, a list or a table"
            raise UserError(f"setting {key!r} must be {wanted}, got {describe(value)}")
        for table in scope.tables:
            if scope.prefix and (other := setters.setdefault((id(table), path), key)) != key:
                raise UserError(f"settings {other!r} and {key!r} set the same value: omit one")
            _set_nested(table, path, copy.deepcopy(value))
        try:
            check()
        except UserError as error:
            raise UserError(f"setting {key!r}: {error}") from error


def field_names(config: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass."""
    return tuple(each.name for each in dataclasses.fields(config))


def with_nested(table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested tables with the values of dotted names replaced.

    Example:
        >>> with_nested({"a": 1, "b": {"d": 0}}, {"b.c": 2})
        {'a': 1, 'b': {'d': 0, 'c': 2}}
    """
    replaced = copy.deepcopy(dict(table))
    for name, value in values.items():
        _set_nested(replaced, name, value)
    return replaced


def _set_nested(table: dict[str, Any], name: str, value: Any) -> None:
    *parents, key = name.split(".")
    for each in parents:
        if not isinstance(table.get(each), dict):
            # A table replaces a number or string: a schedule replaces a constant.
            table[each] = {}
        table = table[each]
    table[key] = value


def _parse_value(key: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:  # Not all are a TOMLDecodeError.
        if text[:1] in ("[", "{", '"', "'"):
            raise UserError(
                f"setting {key!r}: {text!r:.200} is not a value of TOML, such as 0.5, true, word, "
                '"two words", [1, 2] or {a = 1}'
            ) from error
        return text
    # A line break in the text would start a second key; dates are of no use here.
    value = parsed["value"]
    return value if len(parsed) == 1 and _is_plain(value) else text


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float)


def _find(key: str, scopes: Sequence[Scope]) -> tuple[Scope, str]:
    for scope in sorted(scopes, key=lambda each: -len(each.prefix)):
        if path := scope.find(key):
            return scope, path
    named = [each for each in scopes if each.prefix and key.startswith(f"{each.prefix}.")]
    if named:
        longest = max(len(each.prefix) for each in named)
        scopes = [each for each in named if len(each.prefix) == longest]
    known = [f"{scope.prefix}.{name}".lstrip(".") for scope in scopes for name in scope.names or ()]
    # All of them would be hundreds.
    if not named and not closest(key, known):
        known = [*dict.fromkeys(each.placeholder for each in scopes if each.placeholder)]
    raise UserError(f"setting {key!r} is unknown{did_you_mean(key, known)}")
