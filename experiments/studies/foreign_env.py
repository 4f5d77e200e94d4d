"""Environments of a user's own in a study: any Gymnasium id with the info keys of spangym."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spangym.envs.registration import find_spec
from spangym.envs.span_control import SpanControlEnv
from spangym.utils.importing import import_object, module_sha256
from spangym.utils.scalars import as_float, as_int
from spangym.utils.signatures import keyword_names, parameters_of, takes_any_keyword

INFO_NUMBERS = ("span", "qk_pairs", "layer", "output_norm")
"""Numbers that ``info`` must hold after each step, without ``content_type`` and components."""

_MAX_EPISODE_STEPS = 2**20


class EnvTraits(NamedTuple):
    """What an episode of a foreign environment shows.

    Attributes:
        num_actions: Number of actions.
        episode_steps: Steps of every episode.
        components: Names of the components of the reward.
        full_qk_pairs: Most query-key pairs of a step under the last action.
    """

    num_actions: int
    episode_steps: int
    components: tuple[str, ...]
    full_qk_pairs: int


@dataclass(frozen=True)
class ForeignEnv:
    """An environment that is not made by `spangym.envs.SpanControlEnv`.

    It has the actions 0..n - 1, episodes of one length, and the keys ``content_type``, ``layer``,
    ``span``, ``qk_pairs``, ``output_norm`` and ``reward_components`` in the infos of its steps.

    Attributes:
        id: Id, or ``module:ID`` of a module that registers the id.
        kwargs: Arguments of the environment.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> gym.Env[Any, Any]:
        """Make one environment, which checks the info of every step."""
        return _CheckedInfos(gym.make(self.id, disable_env_checker=True, **self.kwargs))

    @property
    def traits(self) -> EnvTraits:
        """What a first episode shows.

        Raises:
            ValueError: The environment cannot stand in a study; the message says why.
        """
        return _play(self.id, json.dumps(dict(self.kwargs), sort_keys=True))

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return self.traits.num_actions

    @property
    def episode_steps(self) -> int:
        """Steps of every episode."""
        return self.traits.episode_steps

    @property
    def full_qk_pairs(self) -> int:
        """Most query-key pairs of a step under the last action."""
        return self.traits.full_qk_pairs

    def module_hashes(self) -> dict[str, str]:
        """SHA-256 of the modules that register and define the environment."""
        hashes = {"entry_point": module_sha256(_entry_point(self.id))}
        if ":" in self.id:
            hashes["id"] = module_sha256(self.id.partition(":")[0])
        return hashes


class _CheckedInfos(gym.Wrapper[Any, Any, Any, Any]):
    """Raises a ValueError if the info of a step is not as a study needs it."""

    _components: tuple[str, ...] | None = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        _check_info(info, self._components)
        self._components = tuple(info["reward_components"])
        return observation, reward, terminated, truncated, info


def takes_argument(env_id: str, name: str) -> bool:
    """Return whether the constructor of an environment takes an argument."""
    return is_subclass(env_id) or name in keyword_names(parameters_of(_entry_point(env_id)))


def is_subclass(env_id: str) -> bool:
    """Return whether an environment is a subclass of `SpanControlEnv`, with its arguments."""
    entry = _entry_point(env_id)
    return isinstance(entry, type) and issubclass(entry, SpanControlEnv)


def argument_names(env_id: str) -> tuple[str, ...] | None:
    """Return the names of the arguments of an environment's constructor; None if it takes any."""
    parameters = parameters_of(_entry_point(env_id))
    return None if takes_any_keyword(parameters) else keyword_names(parameters)


def _check_info(info: Mapping[str, Any], components: tuple[str, ...] | None) -> None:
    """Raise a ValueError if the info of a step lacks a key, or holds one of another type."""
    for name in ("content_type", "reward_components", *INFO_NUMBERS):
        if name not in info:
            raise ValueError(f"the info of its steps must have the key {name!r}")
    try:
        for name in INFO_NUMBERS:
            (as_float if name == "output_norm" else as_int)(name, info[name], 0)
        given = info["reward_components"]
        if not isinstance(given, Mapping):
            raise TypeError("reward_components must be a dict of numbers by name")
        for name, value in given.items():
            as_float(f"reward_components[{name!r}]", value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the info of its steps is wrong: {error}") from error
    if components is not None and tuple(given) != components:
        raise ValueError(f"reward_components must always be {components}, got {tuple(given)}")


def _entry_point(env_id: str) -> Any:
    entry = find_spec(env_id).entry_point
    return import_object(entry, f"environment {env_id!r}") if isinstance(entry, str) else entry


@functools.lru_cache(maxsize=64)
def _play(env_id: str, kwargs: str) -> EnvTraits:
    """Play episodes from one seed: random actions, the same again, the first and last action."""
    env = ForeignEnv(env_id, json.loads(kwargs)).make()
    space = env.action_space
    if not isinstance(space, spaces.Discrete) or space.start:
        raise ValueError(f"its actions must be Discrete(n), they are {space}")
    drawn = np.random.default_rng(0).integers(space.n, size=_MAX_EPISODE_STEPS)
    first, again = _episode(env, drawn), _episode(env, drawn)
    if first != again:
        raise ValueError("an episode must depend on the seed of reset() and the actions only")
    shortest = _episode(env, np.zeros(_MAX_EPISODE_STEPS, np.int64))
    longest = _episode(env, np.full(_MAX_EPISODE_STEPS, space.n - 1))
    env.close()
    lengths = {len(each) for each in (first, shortest, longest)}
    if len(lengths) > 1:
        raise ValueError(f"episodes must have one length, whatever the actions; it has {lengths}")
    components = tuple(first[0][1])
    pairs = max(pairs for *_, pairs in longest)
    return EnvTraits(int(space.n), len(first), components, pairs)


def _episode(env: gym.Env[Any, Any], actions: Any) -> list[tuple[float, dict[str, float], int]]:
    """Play one episode; reward, its components and query-key pairs of each step."""
    env.reset(seed=0)
    steps: list[tuple[float, dict[str, float], int]] = []
    for action in actions.tolist():
        _, reward, terminated, truncated, info = env.step(action)
        components = {name: float(value) for name, value in info["reward_components"].items()}
        steps.append((as_float("reward", reward), components, int(info["qk_pairs"])))
        if terminated or truncated:
            return steps
    raise ValueError(f"episodes must end; it has none after {_MAX_EPISODE_STEPS:,} steps")
