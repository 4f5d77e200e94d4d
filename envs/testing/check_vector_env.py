"""A conformance check of Gymnasium vector environments, as `check_env` is one of scalar ones."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from spangym.envs.testing.nested import ABSENT, arrays, compare, difference, fail, short_repr

_FINAL = ("final_obs", "final_info")


def check_vector_env(
    envs: VectorEnv[Any, Any, Any],
    scalar: Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    seed: int = 0,
    steps: int = 200,
) -> None:
    """Check that a vector environment keeps Gymnasium's contracts.

    Spaces, seeds, shapes and dtypes; that what was returned is never changed by a later call and
    shares no memory; that the same seed gives the same run; and what its autoreset mode promises at
    the end of an episode. Whether an observation is truly an episode's first or last one only the
    scalar environment can tell: with it, environment ``i`` has to behave exactly as it does seeded
    ``seed + i``.

    Args:
        envs: The vector environment. It is reset and stepped, not closed.
        scalar: Makes the scalar environment that each environment is to behave as.
        seed: Of the environment and of the actions, which are drawn from ``envs.action_space``.
        steps: Steps of a run, of which there are two; best several episodes.

    Raises:
        AssertionError: A contract is broken; the message names the environment and the step.

    Warns:
        UserWarning: No episode ended within the steps, so that no end was checked.

    Example:
        >>> import gymnasium as gym
        >>> arguments = {"dims": 16, "heads": 2, "ctx": 32, "chunks": 2}
        >>> name = "spangym.envs:spangym/SpanControl-v0"
        >>> envs = gym.make_vec(name, 3, **arguments)
        >>> check_vector_env(envs, lambda: gym.make(name, **arguments), steps=20)
    """
    mode = _check_declarations(envs)
    first = _Run(envs, mode).run(seed, steps)
    _check_seeds(envs, seed)
    again = _Run(envs, mode).run(seed, steps)
    for one, other in zip(first, again, strict=True):
        for env_index in range(envs.num_envs):
            wanted, got = one.seen_by(envs, env_index), other.seen_by(envs, env_index)
            for name in wanted:
                whose = "in the first run from the same seed"
                compare(
                    f"environment {env_index}, {one.name}, second run",
                    name,
                    got[name],
                    wanted[name],
                    whose,
                )
    if not any(call.ended.any() for call in first):
        warnings.warn(f"no episode ended within {steps} steps: no end was checked", stacklevel=2)
    if scalar is not None:
        for env_index in range(envs.num_envs):
            env = scalar()
            try:
                _check_sub_env(envs, mode, first, env, env_index, seed + env_index)
            finally:
                env.close()


@dataclass
class _Call:
    """A call of `reset` or `step` and what it returned.

    Attributes:
        name: Of the call, for messages.
        observations: As returned; likewise the following.
        infos: As returned.
        ended: Environments whose episode ended in it.
        rewards: None of a reset; likewise the flags and actions.
        terminations: As returned.
        truncations: As returned.
        actions: What was done.
        mask: Environments that were reset.
    """

    name: str
    observations: Any
    infos: dict[str, Any]
    ended: NDArray[np.bool_]
    rewards: Any = None
    terminations: Any = None
    truncations: Any = None
    actions: Any = None
    mask: NDArray[np.bool_] | None = None
    kept: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kept = copy.deepcopy(self.returned())

    def returned(self) -> dict[str, Any]:
        """What was returned, by name."""
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        return {name: getattr(self, name) for name in names}

    def seen_by(self, envs: VectorEnv[Any, Any, Any], env_index: int) -> dict[str, Any]:
        """What one environment was told."""
        rows = {
            "reward": self.rewards,
            "terminated": self.terminations,
            "truncated": self.truncations,
        }
        told = {name: row[env_index] for name, row in rows.items() if row is not None}
        told["observation"] = _select_env(envs.observation_space, self.observations, env_index)
        told["info"] = _info_of_env(self.infos, env_index)
        return told


class _Array(NamedTuple):
    """An array that a call returned, and where it lies."""

    low: int
    high: int
    call: int
    name: str
    array: NDArray[Any]


class _Run:
    """One run through a vector environment, checking each call by itself and against the last."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], mode: AutoresetMode) -> None:
        self.envs = envs
        self.mode = mode
        self.calls: list[_Call] = []

    def run(self, seed: int, steps: int) -> list[_Call]:
        """Reset, step, and reset without a seed."""
        # A copy: the caller's space draws on as if nothing had been.
        space = copy.deepcopy(self.envs.action_space)
        space.seed(seed)
        self._reset(f"reset(seed={seed})", seed=seed)
        for step in range(steps):
            call = self._step(f"step {step}", space.sample())
            if self.mode is AutoresetMode.DISABLED and call.ended.any():
                self._reset_ended(call)
        self._reset(f"reset() after step {steps - 1}")
        _check_memory(self.calls)
        for call in self.calls[:-1]:
            _check_unchanged(call, "a later call")
        return self.calls

    def _reset(self, name: str, mask: NDArray[np.bool_] | None = None, **arguments: Any) -> _Call:
        returned = self.envs.reset(**arguments)
        if not isinstance(returned, tuple) or len(returned) != 2:
            fail(name, f"reset must return observations and infos, got {short_repr(returned)}")
        none = np.zeros(self.envs.num_envs, dtype=np.bool_)
        return self._add(_Call(name, *returned, ended=none, mask=mask))

    def _reset_ended(self, call: _Call) -> None:
        name, mask = f"reset with reset_mask after {call.name}", call.ended
        try:
            reset = self._reset(name, mask, options={"reset_mask": mask.copy()})
        except AssertionError:
            raise
        except Exception as error:
            text = f"mode DISABLED needs options={{'reset_mask': ...}}, got {short_repr(error)}"
            raise AssertionError(f"{name}: {text}") from error
        for env_index in np.flatnonzero(~mask).tolist():
            one, other = (
                _select_env(self.envs.observation_space, each.observations, env_index)
                for each in (call, reset)
            )
            compare(
                f"environment {env_index}, {name}",
                "observation",
                other,
                one,
                "not reset, before it",
            )

    def _step(self, name: str, actions: Any) -> _Call:
        before = copy.deepcopy(actions)
        returned = self.envs.step(actions)
        if not isinstance(returned, tuple) or len(returned) != 5:
            fail(name, f"step must return five things, got {short_repr(returned)}")
        observations, rewards, terminations, truncations, infos = returned
        shape = (self.envs.num_envs,)
        for title, array, kind, wanted in (
            ("rewards", rewards, np.floating, "floating"),
            ("terminations", terminations, np.bool_, "bool"),
            ("truncations", truncations, np.bool_, "bool"),
        ):
            if not isinstance(array, np.ndarray):
                fail(name, f"{title} must be a NumPy array, got {type(array).__name__}")
            if array.shape != shape or not np.issubdtype(array.dtype, kind):
                got = f"{array.shape} and {array.dtype}"
                fail(name, f"{title} must have shape {shape} and a {wanted} dtype, got {got}")
        for env_index in np.flatnonzero(np.isnan(rewards)).tolist():
            fail(f"environment {env_index}, {name}", "reward is not a number")
        if difference(actions, before):
            fail(name, "step must leave the actions as they are, it has changed them")
        ended = terminations | truncations
        call = _Call(name, observations, infos, ended, rewards, terminations, truncations, before)
        over = self.calls[-1].ended
        self._add(call)
        if self.mode is AutoresetMode.SAME_STEP:
            self._check_final(call)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._check_next(call, over)
        return call

    def _add(self, call: _Call) -> _Call:
        _check_observations(self.envs, call)
        _check_infos(call.infos, "infos", call)
        if self.calls:
            _check_unchanged(self.calls[-1], call.name)
        self.calls.append(call)
        return call

    def _check_final(self, call: _Call) -> None:
        for key in _FINAL:
            mask = np.zeros_like(call.ended)
            if key in call.infos and f"_{key}" in call.infos:
                mask = call.infos[f"_{key}"]
            for env_index in np.flatnonzero(mask != call.ended).tolist():
                if call.ended[env_index]:
                    told = f"ended, so that infos must hold its {key} and say so in '_{key}'"
                else:
                    told = f"did not end, but infos['_{key}'] says that it has a {key}"
                fail(f"environment {env_index}, {call.name}", f"the episode {told}")
        for env_index in np.flatnonzero(call.ended).tolist():
            last = _value_of_env(call.infos, "final_obs", env_index)
            if last not in self.envs.single_observation_space:
                text = f"final_obs is not in single_observation_space: {short_repr(last)}"
                fail(f"environment {env_index}, {call.name}", text)

    def _check_next(self, call: _Call, over: NDArray[np.bool_]) -> None:
        for env_index in np.flatnonzero(over).tolist():
            told = (
                call.rewards[env_index],
                call.terminations[env_index],
                call.truncations[env_index],
            )
            if any(told):
                fail(
                    f"environment {env_index}, {call.name}",
                    "the step after an episode's end only resets: reward 0 and no flag, got "
                    f"reward {told[0]}, terminated {told[1]}, truncated {told[2]}",
                )


def _check_declarations(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = (envs.metadata or {}).get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        fail("metadata", f"'autoreset_mode' must be an AutoresetMode, got {short_repr(mode)}")
    if not isinstance(envs.num_envs, int) or envs.num_envs < 1:
        fail(
            "num_envs",
            f"must be a number of environments, at least 1, got {short_repr(envs.num_envs)}",
        )
    for name in ("observation_space", "action_space"):
        single, batched = getattr(envs, f"single_{name}"), getattr(envs, name)
        wanted = batch_space(single, envs.num_envs)
        if batched != wanted:
            text = f"must be that of {envs.num_envs} times single_{name}, {short_repr(wanted)}"
            fail(name, f"{text}, got {short_repr(batched)}")
    return mode


def _check_seeds(envs: VectorEnv[Any, Any, Any], seed: int) -> None:
    """One number per environment seeds as one number for all does."""
    one, _ = envs.reset(seed=seed)
    one = copy.deepcopy(one)
    seeds = [seed + env_index for env_index in range(envs.num_envs)]
    try:
        other, _ = envs.reset(seed=seeds)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        text = f"reset must take a list of seeds, one per environment, got {short_repr(error)}"
        raise AssertionError(f"reset(seed={seeds}): {text}") from error
    for env_index in range(envs.num_envs):
        wanted, got = (
            _select_env(envs.observation_space, each, env_index) for each in (one, other)
        )
        compare(
            f"environment {env_index}, reset(seed={seeds})",
            "observation",
            got,
            wanted,
            f"with {seed=}",
        )


def _check_observations(envs: VectorEnv[Any, Any, Any], call: _Call) -> None:
    space = envs.observation_space
    misfit = _misfit(space, call.observations, "observations")
    if misfit:
        fail(call.name, misfit)
    if call.observations in space:
        return
    for env_index, each in enumerate(iterate(space, call.observations)):
        if each not in envs.single_observation_space:
            fail(
                f"environment {env_index}, {call.name}",
                f"observation is not in its space: {short_repr(each)}",
            )
    fail(call.name, f"observations are not in their space: {short_repr(call.observations)}")


def _check_infos(infos: Any, name: str, call: _Call) -> None:
    """Every value has one entry per environment, and every mask is boolean."""
    if not isinstance(infos, Mapping):
        fail(call.name, f"{name} must be a dict, got {type(infos).__name__}")
    num_envs = len(call.ended)
    for key, value in infos.items():
        title = f"{name}[{key!r}]"
        if isinstance(value, Mapping):
            _check_infos(value, title, call)
        elif not isinstance(value, np.ndarray | list | tuple) or len(value) != num_envs:
            fail(
                call.name,
                f"{title} must have {num_envs} entries, one per environment, got {short_repr(value)}",
            )
        elif key.startswith("_") and key[1:] in infos and getattr(value, "dtype", None) != np.bool_:
            fail(call.name, f"{title} is the mask of {key[1:]!r} and must be an array of bool")


def _misfit(space: spaces.Space[Any], value: Any, name: str) -> str | None:
    """What is wrong with shapes and dtypes, which `contains` is lenient about."""
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping):
        if value.keys() != space.keys():
            return f"{name} must have the keys {[*space]}, got {[*value]}"
        parts = [(space[key], value[key], f"{name}[{key!r}]") for key in space]
    elif isinstance(space, spaces.Tuple) and isinstance(value, Sequence):
        parts = [(*both, f"{name}[{i}]") for i, both in enumerate(zip(space, value, strict=False))]
    elif not isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return None
    elif not isinstance(value, np.ndarray):
        return f"{name} must be a NumPy array, got {type(value).__name__}"
    elif value.shape != space.shape or value.dtype != space.dtype:
        got = f"{value.shape} and {value.dtype}"
        return f"{name} must have shape {space.shape} and dtype {space.dtype}, got {got}"
    else:
        return None
    return next(filter(None, itertools.starmap(_misfit, parts)), None)


def _check_unchanged(call: _Call, later: str) -> None:
    found = difference(call.returned(), call.kept)
    if found:
        fail(later, f"has changed {found[0]}, which {call.name} returned: return fresh arrays")


def _check_memory(calls: list[_Call]) -> None:
    """No two arrays share memory. All of them are still alive, so that none is reused."""
    found = [
        _Array(*np.lib.array_utils.byte_bounds(array), index, f"{name} of {call.name}", array)
        for index, call in enumerate(calls)
        for name, array in arrays(call.returned(), "")
        if array.nbytes
    ]
    shared: list[tuple[_Array, _Array]] = []
    reach: list[_Array] = []
    for each in sorted(found, key=lambda array: array.low):
        reach = [other for other in reach if other.high > each.low]
        for other in reach:
            if np.shares_memory(other.array, each.array):
                one, two = sorted([other, each], key=lambda array: (array.call, array.name))
                shared.append((one, two))
        reach.append(each)
    if shared:
        one, two = min(shared, key=lambda both: (both[1].call, both[0].call))
        fail(f"{one.name} and {two.name}", "share memory: return arrays of their own")


def _check_sub_env(
    envs: VectorEnv[Any, Any, Any],
    mode: AutoresetMode,
    calls: list[_Call],
    env: gym.Env[Any, Any],
    env_index: int,
    seed: int,
) -> None:
    """Play a recorded run's actions of one environment in the scalar environment."""
    over = False
    first_seed: int | None = seed
    for call in calls:
        if call.mask is not None and not call.mask[env_index]:
            continue
        told = call.seen_by(envs, env_index)
        wanted: dict[str, Any] = {}
        if call.actions is None or (over and mode is AutoresetMode.NEXT_STEP):
            wanted["observation"], wanted["info"] = env.reset(seed=first_seed)
            first_seed, over = None, False
        else:
            action = _select_env(envs.action_space, call.actions, env_index)
            observation, reward, terminated, truncated, info = env.step(action)
            wanted["reward"] = call.rewards.dtype.type(reward)
            wanted["terminated"], wanted["truncated"] = terminated, truncated
            over = bool(terminated or truncated)
            if over and mode is AutoresetMode.SAME_STEP:
                # Flags first: where they differ, all else does.
                for name in ("reward", "terminated", "truncated"):
                    _compare_with_scalar(env_index, call, name, told[name], wanted[name])
                # Copies: a scalar environment may use its arrays again.
                wanted |= copy.deepcopy({"final_obs": observation, "final_info": info})
                observation, info = env.reset()
            wanted |= {"observation": observation, "info": info}
        if mode is AutoresetMode.SAME_STEP:
            told |= {key: told["info"].pop(key, ABSENT) for key in _FINAL}
        for name, value in wanted.items():
            _compare_with_scalar(env_index, call, name, told[name], value)


def _compare_with_scalar(env_index: int, call: _Call, name: str, got: Any, wanted: Any) -> None:
    compare(f"environment {env_index}, {call.name}", name, got, wanted, "in the scalar environment")


def _info_of_env(infos: Mapping[str, Any], env_index: int) -> dict[str, Any]:
    """One environment's info, out of the infos of all."""
    masks = {key for key in infos if key.startswith("_") and key[1:] in infos}
    return {
        key: _value_of_env(infos, key, env_index)
        for key in infos
        if key not in masks and (f"_{key}" not in masks or infos[f"_{key}"][env_index])
    }


def _value_of_env(infos: Mapping[str, Any], key: str, env_index: int) -> Any:
    value = infos[key]
    return _info_of_env(value, env_index) if isinstance(value, Mapping) else value[env_index]


def _select_env(space: spaces.Space[Any], batch: Any, env_index: int) -> Any:
    return next(itertools.islice(iterate(space, batch), env_index, None))
