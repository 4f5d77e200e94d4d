"""Algorithms of Stable-Baselines3 and sb3-contrib by name, and their hyperparameters from TOML."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule

from spangym.utils.suggestions import did_you_mean

ALGORITHMS: dict[str, str] = {
    "a2c": "stable_baselines3:A2C",
    "dqn": "stable_baselines3:DQN",
    "ppo": "stable_baselines3:PPO",
    "ars": "sb3_contrib:ARS",
    "maskable_ppo": "sb3_contrib:MaskablePPO",
    "qrdqn": "sb3_contrib:QRDQN",
    "recurrent_ppo": "sb3_contrib:RecurrentPPO",
    "trpo": "sb3_contrib:TRPO",
}
"""All that take discrete actions, by name: where each is imported from."""

_NOT_OPTIONS = ("self", "policy", "env", "seed", "_init_setup_model")


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm of that name.

    Raises:
        KeyError: There is none.
        ValueError: It is in a package that is not installed.
    """
    module, _, class_name = ALGORITHMS[name].partition(":")
    try:
        return getattr(importlib.import_module(module), class_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"agent {name!r} is in sb3-contrib, which is not installed: "
            "pip install 'spangym[contrib]'"
        ) from error


def hyperparameters_of(algorithm: type[BaseAlgorithm]) -> dict[str, inspect.Parameter]:
    """The hyperparameters that an algorithm takes."""
    parameters = inspect.signature(algorithm).parameters
    return {name: each for name, each in parameters.items() if name not in _NOT_OPTIONS}


def parse_hyperparameters(
    algorithm: type[BaseAlgorithm], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Hyperparameters as the algorithm takes them, from what TOML or JSON can hold.

    A schedule is written ``{start = 1e-3, end = 0}`` (linear over the training, or over its first
    ``fraction``), an activation or an optimizer in ``policy_kwargs`` by its name in PyTorch, and a
    pair such as ``train_freq = [1, "episode"]`` as a list.

    Raises:
        ValueError: A schedule or a name in it is wrong.

    Example:
        >>> from stable_baselines3 import PPO
        >>> made = parse_hyperparameters(PPO, {"learning_rate": {"start": 0.1, "end": 0.0}})
        >>> made["learning_rate"](0.5)
        0.05
    """
    parameters = hyperparameters_of(algorithm)
    made = dict(options)
    for name, value in options.items():
        if name == "policy_kwargs" and isinstance(value, Mapping):
            made[name] = _policy_kwargs(value)
        elif isinstance(value, Mapping) and _takes_schedule(parameters[name]):
            made[name] = _schedule(name, value)
        elif isinstance(value, list):
            made[name] = tuple(value)
    return made


def _takes_schedule(parameter: inspect.Parameter) -> bool:
    return any(word in str(parameter.annotation) for word in ("Schedule", "Callable"))


def _schedule(name: str, value: Mapping[str, Any]) -> LinearSchedule:
    known = ("start", "end", "fraction")
    for key in value:
        if key not in known:
            raise ValueError(f"{name} has no key {key!r}{did_you_mean(key, known)}")
    if "start" not in value or "end" not in value:
        raise ValueError(f"{name} must be a number or {{start = ..., end = ...}}, got {value}")
    return LinearSchedule(value["start"], value["end"], value.get("fraction", 1.0))


def _policy_kwargs(value: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(value)
    for name, module in (("activation_fn", torch.nn), ("optimizer_class", torch.optim)):
        if isinstance(made.get(name), str):
            found = getattr(module, made[name], None)
            if not inspect.isclass(found):
                hint = did_you_mean(made[name], dir(module))
                raise ValueError(
                    f"policy_kwargs: {module.__name__} has no class {made[name]!r}{hint}"
                )
            made[name] = found
    return made
