"""Typed configuration from TOML, with errors that name the key and what would be right."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from spangym.utils.errors import UserError
from spangym.utils.scalars import describe
from spangym.utils.suggestions import did_you_mean
from spangym.utils.text import printable

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

_MAX_CHARACTERS = 2**20
"""Most characters of a file of TOML."""

_MAX_DOTS = 200


def builtin_texts(package: str, folder: str) -> dict[str, str]:
    """Texts of the TOML files in a folder of a package, by file name without suffix."""
    paths = (resources.files(package) / folder).iterdir()
    return {
        path.name.removesuffix(".toml"): path.read_text("utf-8")
        for path in paths
        if path.name.endswith(".toml")
    }


def find_text(noun: str, name: str, builtin: Mapping[str, str]) -> str:
    """The built-in text of a name, or the text of a file.

    Args:
        noun: What the text describes, for error messages.
        name: Built-in name, or path of a file.
        builtin: Built-in texts by name.

    Raises:
        UserError: The file does not exist, or is not text.
    """
    if name in builtin:
        return builtin[name]
    try:
        # utf-8-sig: some editors begin UTF-8 with a byte order mark.
        with Path(name).open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{noun} {name!r} is not a text file in UTF-8") from error
    except FileNotFoundError as error:
        hint = did_you_mean(name.removesuffix(".toml"), builtin)
        own = "" if hint.endswith("?") else ", or name a TOML file of your own"
        raise UserError(f"{noun} {name!r} does not exist{hint}{own}") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"{noun} {name!r} cannot be read: {cause}") from error
    if len(text) > _MAX_CHARACTERS:
        raise UserError(f"{noun} {name!r} has more than {_MAX_CHARACTERS} characters")
    return text


def parse_toml(text: str, name: str, kind: type[T]) -> T:
    """Read a dataclass, or a dict of dataclasses, from TOML.

    Args:
        text: The TOML.
        name: Name of the source in error messages.
        kind: Type to read.

    Raises:
        UserError: The text is not TOML, or a key or value does not fit the type.
    """
    # Time and memory of Python's reader grow with the square of the parts of a dotted key.
    keys = (part for line in text.splitlines() if line[:1] != "#" for part in line.split("="))
    if any(part.count(".") > _MAX_DOTS for part in keys):
        raise UserError(f"{name}: a key or value has more than {_MAX_DOTS} dots")
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise UserError(f"{name}: its tables or arrays are nested too deeply") from error
    except ValueError as error:  # Integers of more than 4300 digits are no TOMLDecodeError.
        raise UserError(f"{name}: not TOML: {printable(error)}") from error
    try:
        return validate(values, kind)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def validate(values: Any, kind: type[T]) -> T:
    """Read a dataclass, or a dict of dataclasses, from nested values such as those of TOML.

    Raises:
        UserError: A key or value does not fit the type.
    """
    # `spangym list` reads texts of TOML, and needs no validation.
    from pydantic import TypeAdapter, ValidationError

    try:
        # In strict mode, dataclasses and tuples are validated from tables and arrays only in JSON.
        return TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(_first_error(error, kind)) from error
    except RecursionError as error:
        raise UserError("its tables or arrays are nested too deeply") from error


def describe_invalid(error: ValidationError, parent: str = "") -> str:
    """Return the first error of a validation in words, with the key after that of its parent."""
    return _in_words(error.errors()[0], parent)


_RULES = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be an array",
    "tuple_type": "must be an array",
    "dict_type": "must be a table",
    "dataclass_type": "must be a table",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entry",
}
"""Rules by the type of a Pydantic error, in words; the values in braces are its context."""


def _in_words(error: Any, parent: str = "") -> str:
    where, kind = parent + ".".join(map(str, error["loc"])), error["type"]
    if kind in ("value_error", "assertion_error"):
        return f"key {where!r}: {error['ctx']['error']}"
    rule = error["msg"][:1].lower() + error["msg"][1:]
    if kind in _RULES:
        rule = _RULES[kind].format(**error.get("ctx", {}))
    given, hint = error["input"], ""
    if kind == "literal_error" and isinstance(given, str):
        hint = did_you_mean(given, re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        hint = hint if hint.startswith("; did") else ""
    return f"key {where!r} {rule}, got {describe(given)}{hint}"


def _first_error(error: ValidationError, kind: Any) -> str:
    # A misspelled key is also a missing one; the misspelling is the more useful error.
    unknown = "unexpected_keyword_argument"
    first = min(error.errors(), key=lambda each: each["type"] != unknown)
    path = first["loc"]
    where = ".".join(map(str, path))
    if first["type"] == "json_invalid":
        return "its tables or arrays are nested too deeply"
    if first["type"] == unknown:
        return f"key {where!r} is unknown{did_you_mean(str(path[-1]), _keys_at(kind, path[:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key {where!r} is missing"
    return _in_words(first)


def _keys_at(kind: Any, path: Sequence[str | int]) -> list[str]:
    """Return the fields of the dataclass at a path of keys and indices."""
    for part in path:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind)[str(part)]
        else:
            arguments = get_args(kind)
            kind = arguments[1] if get_origin(kind) is dict else arguments[0]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return [each.name for each in dataclasses.fields(kind)]
