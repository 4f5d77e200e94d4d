"""Environments of other packages, which name them by an entry point."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import parse_env_id

from spangym.utils.importing import import_object
from spangym.utils.scalars import as_str, describe
from spangym.utils.suggestions import did_you_mean

ENTRY_POINTS = "spangym.environments"
"""Group of entry points by which packages add environments, as ``name = module:TABLE``."""

_KEYS = ("description", "kwargs", "baselines")


@dataclass(frozen=True)
class OtherEnvironment:
    """An environment of another package.

    Attributes:
        description: What an agent is to do there, in one line.
        kwargs: Arguments that differ from the defaults of `spangym.envs.EnvConfig`; of an id that
            the package has registered with Gymnasium itself they are not used.
        baselines: File that ``spangym baselines --json`` wrote for it; empty for none.
    """

    description: str
    kwargs: Mapping[str, Any]
    baselines: str = ""


def other_environments() -> dict[str, OtherEnvironment]:
    """Return the environments of other packages by id.

    The entry point names a dict by id, each with a ``description`` and, optionally, ``kwargs`` and
    ``baselines``. One that cannot be read is a warning, which says what is wrong.
    """
    found: dict[str, OtherEnvironment] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"entry point {point.name!r} of {ENTRY_POINTS!r}"
        try:
            found |= _parse_table(import_object(point.value, where), where)
        except (TypeError, ValueError) as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def _parse_table(table: Any, where: str) -> dict[str, OtherEnvironment]:
    if not isinstance(table, Mapping):
        raise TypeError(f"{where} must name a dict of environments by id, got {describe(table)}")
    return {as_str("id", name): _parse(name, entry, where) for name, entry in table.items()}


def _parse(name: str, entry: Any, where: str) -> OtherEnvironment:
    where = f"{where}: environment {name!r}"
    try:
        namespace, _, version = parse_env_id(name)
    except gym.error.Error as error:
        raise ValueError(f"{where}: {error}") from error
    if namespace in (None, "spangym") or version is None:
        raise ValueError(f"{where} must be named PACKAGE/Name-v0, with a namespace of its own")
    if not isinstance(entry, Mapping):
        raise TypeError(f"{where} must be a dict with a description, got {describe(entry)}")
    for key in entry:
        if key not in _KEYS:
            raise ValueError(f"{where} has an unknown key {key!r}{did_you_mean(str(key), _KEYS)}")
    if not entry.get("description"):
        raise ValueError(f"{where} lacks a description")
    kwargs = entry.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"{where}: kwargs must be a dict of arguments, got {describe(kwargs)}")
    description, baselines = (
        as_str(f"{where}: {key}", entry.get(key, "")) for key in ("description", "baselines")
    )
    return OtherEnvironment(description, dict(kwargs), baselines)
