"""Algorithms of Stable-Baselines3 and sb3-contrib by name, and their hyperparameters from TOML."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from spangym.agents.agent_names import ALGORITHMS
from spangym.utils.signatures import keyword_names, parameters_of
from spangym.utils.suggestions import did_you_mean


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """Import an algorithm of `ALGORITHMS`.

    Raises:
        ValueError: Its package is not installed.
    """
    try:
        return pkgutil.resolve_name(ALGORITHMS[name])
    except ModuleNotFoundError as error:
        hint = "which is not installed: pip install 'spangym[contrib]'"
        raise ValueError(f"agent {name!r} needs sb3-contrib, {hint}") from error


def hyperparameters_of(algorithm: type[BaseAlgorithm]) -> dict[str, inspect.Parameter]:
    """Return the hyperparameters of an algorithm by name, inherited ones included."""
    parameters = parameters_of(algorithm)
    own = ("policy", "env", "seed", "_init_setup_model")
    return {each: parameters[each] for each in keyword_names(parameters) if each not in own}


def parse_hyperparameters(
    algorithm: type[BaseAlgorithm], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Convert TOML or JSON values to hyperparameters of an algorithm.

    A linear schedule is a table ``{start = 1e-3, end = 0}``, optionally with the ``fraction`` of
    the training that it takes; activations and optimizers in ``policy_kwargs`` are names of
    PyTorch's classes; lists become tuples, as in ``train_freq = [1, "episode"]``.

    Raises:
        ValueError: A schedule or a name is invalid.

    Example:
        >>> from stable_baselines3 import PPO
        >>> made = parse_hyperparameters(PPO, {"learning_rate": {"start": 0.1, "end": 0.0}})
        >>> made["learning_rate"](0.5)
        0.05
    """
    parameters = hyperparameters_of(algorithm)
    parsed = dict(options)
    for name, value in options.items():
        if name == "policy_kwargs" and isinstance(value, Mapping):
            parsed[name] = _policy_kwargs(value)
        elif isinstance(value, list):
            parsed[name] = tuple(value)
        elif isinstance(value, Mapping) and name in parameters:
            annotation = str(parameters[name].annotation)
            if "Schedule" in annotation or "Callable" in annotation:
                parsed[name] = _schedule(name, value)
    return parsed


def _schedule(name: str, value: Mapping[str, Any]) -> LinearSchedule:
    known = ("start", "end", "fraction")
    for key in value:
        if key not in known:
            raise ValueError(f"{name} has no key {key!r}{did_you_mean(key, known)}")
    if "start" not in value or "end" not in value:
        raise ValueError(f"{name} must be a number or {{start = ..., end = ...}}, got {value}")
    return LinearSchedule(value["start"], value["end"], value.get("fraction", 1.0))


def _policy_kwargs(value: Mapping[str, Any]) -> dict[str, Any]:
    parsed = dict(value)
    for name, module in (("activation_fn", torch.nn), ("optimizer_class", torch.optim)):
        class_name = parsed.get(name)
        if isinstance(class_name, str):
            parsed[name] = getattr(module, class_name, None)
            if not inspect.isclass(parsed[name]):
                missing = f"{class_name!r}{did_you_mean(class_name, dir(module))}"
                raise ValueError(f"policy_kwargs: {module.__name__} has no class {missing}")
    return parsed
