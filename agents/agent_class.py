"""Checks of a user's class before anything runs: refiners, and agents that do everything."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spangym.attention import NUM_ACTIONS
from spangym.attention.observation_spec import ENCODINGS
from spangym.utils.signatures import method_problem, source_location
from spangym.utils.suggestions import did_you_mean


@dataclass(frozen=True, eq=False)
class Role:
    """The methods of a kind of agent, with the arguments that they are called with.

    Attributes:
        name: Name in messages.
        methods: Methods that it must have.
        optional: Methods that it may have.
    """

    name: str
    methods: Mapping[str, str]
    optional: Mapping[str, str]


_STATE = {"state_dict": "", "load_state_dict": "state_dict"}

REFINER = Role(
    "a refiner",
    {"choose_action": "state", "update": "state, action, reward, next_state"},
    {"greedy_action": "state", "save": "path", "load": "path", **_STATE},
)
"""Chooses actions from state ids; it is trained by `TabularAgent`."""

AGENT = Role(
    "an agent",
    {"learn": "env, steps", "predict": "observations", "save": "path", "load": "path"},
    {"on_episode_start": "env"},
)
"""Trains itself, see `spangym.agents.base.Agent`."""

_PAIRS = (("save", "load"), ("load", "save"), *zip(_STATE, reversed(_STATE), strict=True))


def find_role(name: str, cls: type[Any]) -> Role:
    """Return whether a class is a refiner or an agent, and check all of its methods.

    Raises:
        ValueError: It is neither, or a method is missing or wrong. The message starts with ``name``
            and gives the line of the class or method in its file.
    """
    missing = {
        role: [each for each in role.methods if not hasattr(cls, each)] for role in (REFINER, AGENT)
    }
    # A class with all methods of one kind may have some of the other.
    role = min(missing, key=lambda each: len(missing[each]) / len(each.methods))
    if len(missing[role]) == len(role.methods):
        kinds = (f"{each.name} ({', '.join(each.methods)})" for each in (REFINER, AGENT))
        raise ValueError(
            f"agent {name!r} is neither {' nor '.join(kinds)} nor an algorithm of Stable-Baselines3"
        )
    problems = "; ".join(_problems(cls, role))
    if missing[role]:
        needed = " and ".join(f"{each}({given})" for each, given in role.methods.items())
        problems += f": {role.name} needs {needed}"
    if problems:
        raise ValueError(f"agent {name!r}: {problems}")
    return role


def _problems(cls: type[Any], role: Role) -> Iterator[str]:
    """Yield what is wrong with a class, each with its line."""
    optional = {each: given for each, given in role.optional.items() if hasattr(cls, each)}
    methods = {**role.methods, **optional}
    if role is AGENT and hasattr(cls, "resumable"):
        if inspect.isroutine(cls.resumable):
            where = source_location(cls, "resumable")
            yield f"{where}{cls.__name__}.resumable is a method: it must be a property"
        if cls.resumable:
            methods |= {**_STATE, "learn": "env, steps, checkpoint_callback"}
    for one, other in _PAIRS:
        if one in methods and hasattr(cls, one) and not hasattr(cls, other):
            arguments = {**role.methods, **role.optional, **_STATE}
            methods.pop(other, None)
            has = f"{one}({arguments[one]}) but no {other}({arguments[other]})"
            yield f"{source_location(cls, one)}{cls.__name__} has {has}"
    for each, arguments in methods.items():
        if problem := method_problem(cls, each, arguments):
            yield source_location(cls, each) + problem
    if role is AGENT and (encoding := getattr(cls, "encoding", "box")) not in ENCODINGS:
        hint = did_you_mean(str(encoding), ENCODINGS)
        where = source_location(cls, "encoding")
        yield f"{where}{cls.__name__}.encoding {encoding!r:.80} is unknown{hint}"
    if abstract := sorted(getattr(cls, "__abstractmethods__", ())):
        lacks = f"{cls.__name__} is abstract: it does not define {', '.join(abstract)}"
        yield source_location(cls) + lacks


def action_problem(
    method: str, actions: ArrayLike, num_envs: int, num_actions: int = NUM_ACTIONS
) -> str:
    """Return what is wrong with the actions that a method gave; empty if nothing is.

    Example:
        >>> action_problem("predict(observations)", [3, 11], 2)
        'predict(observations) gave 11: an action is an integer in 0..9'
    """
    try:
        actions = np.asarray(actions)
    except ValueError as error:
        return f"{method} gave no array: {error}"
    if actions.shape != (num_envs,):
        given = f"{method} gave shape {actions.shape} for {num_envs} environments"
        return f"{given}: it must be one action per environment"
    for action in actions.tolist():
        if not isinstance(action, int) or not 0 <= action < num_actions:
            wanted = f"an action is an integer in 0..{num_actions - 1}"
            return f"{method} gave {action!r}: {wanted}"
    return ""
