"""Typed configuration from TOML, with errors that say what would be right."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean

T = TypeVar("T")


def builtin_texts(package: str, folder: str) -> dict[str, str]:
    """TOML texts in a folder of a package, by file name without its suffix."""
    place = resources.files(package) / folder
    files = [each for each in place.iterdir() if each.name.endswith(".toml")]
    return {each.name.removesuffix(".toml"): each.read_text("utf-8") for each in files}


def find_text(noun: str, name: str, shipped: Mapping[str, str]) -> str:
    """A shipped text, or that of a file.

    Args:
        noun: What it is, for error messages.
        name: Of one of the shipped, or of a file.
        shipped: Texts by name.

    Raises:
        UserError: There is no such file, or it is no text.
    """
    if name in shipped:
        return shipped[name]
    try:
        # With or without the mark that some editors put before UTF-8.
        return Path(name).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{noun} {name!r} is not a text file in UTF-8") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(
            f"{noun} {name!r} cannot be read: {cause}{did_you_mean(name, shipped)}"
        ) from error


def parse_toml(
    text: str,
    name: str,
    kind: type[T],
    keys: type[Any],
    tables: Mapping[str, type[Any]] = MappingProxyType({}),
) -> T:
    """Read a dataclass, or several by name, from TOML.

    Args:
        text: The TOML.
        name: What to call it in error messages.
        kind: What is read.
        keys: The dataclass that says which keys there are.
        tables: The same of its tables, by their names.

    Raises:
        UserError: It is not TOML, or says what the dataclass has no place for.
    """
    try:
        # Strict validation takes tables for dataclasses and arrays for tuples only from JSON.
        return TypeAdapter(kind).validate_json(json.dumps(tomllib.loads(text), default=str))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not TOML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{name}: {_in_a_line(error, keys, tables)}") from error


def _in_a_line(error: ValidationError, keys: type[Any], tables: Mapping[str, type[Any]]) -> str:
    """What is wrong with a TOML file, the first of all that is."""
    # A misspelled key is also a missing one: the misspelling says more.
    unknown = "unexpected_keyword_argument"
    first = min(error.errors(), key=lambda each: each["type"] != unknown)
    *path, last = [str(part) for part in first["loc"]]
    where = ".".join([*path, last])
    if first["type"] == unknown:
        named = [each for each in path if not each.isdigit()]
        known = dataclasses.fields(tables.get(named[-1], keys) if named else keys)
        return f"key {where!r} is unknown{did_you_mean(last, [each.name for each in known])}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key {where!r} is missing"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"key {where!r}: {message}, got {first['input']!r}"
