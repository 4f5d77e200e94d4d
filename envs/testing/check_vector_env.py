"""A conformance test of Gymnasium vector environments, like `check_env` for scalar ones."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

_Envs = VectorEnv[Any, Any, Any]
_RESULTS = ("observations", "rewards", "terminations", "truncations", "infos")
_FINAL = ("final_obs", "final_info")


def check_vector_env(
    envs: _Envs,
    scalar: Callable[[], gym.Env[Any, Any]] | None = None,
    *,
    seed: int = 0,
    steps: int = 200,
) -> None:
    """Check that a vector environment satisfies Gymnasium's contracts.

    Spaces, seeds, shapes and dtypes are checked; that later calls do not change returned arrays,
    which share no memory; that the same seed gives the same run; and the rules of the autoreset
    mode at the end of an episode. With the scalar environment, environment ``i`` must behave
    exactly as it does seeded ``seed + i``.

    Args:
        envs: The vector environment. It is reset and stepped, not closed.
        scalar: Constructor of the scalar environment that each environment must equal.
        seed: Seed of the environment and of the actions, sampled from ``envs.action_space``.
        steps: Steps of a run, of which there are two; they should cover several episodes.

    Raises:
        AssertionError: A contract is violated; the message names the environment and the step.

    Warns:
        UserWarning: No episode ended within the steps, so that no end was checked.

    Example:
        >>> import gymnasium as gym
        >>> kwargs = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 2}
        >>> name = "spangym.envs:spangym/SpanControl-v0"
        >>> envs = gym.make_vec(name, 3, **kwargs)
        >>> check_vector_env(envs, lambda: gym.make(name, **kwargs), steps=20)
    """
    mode = _check_declarations(envs)
    first_run = _Run(envs, mode).run(seed, steps)
    _check_seeds(envs, seed)
    second_run = _Run(envs, mode).run(seed, steps)
    for first, second in zip(first_run, second_run, strict=True):
        for index in range(envs.num_envs):
            got, expected = second.of_env(envs, index), first.of_env(envs, index)
            where = f"environment {index}, {first.name}, second run"
            for name in expected:
                _compare(where, name, got[name], expected[name], "in the first run from this seed")
    if not any(call.ended.any() for call in first_run):
        warnings.warn(f"no episode ended within {steps} steps: no end was checked", stacklevel=2)
    if scalar is not None:
        for index in range(envs.num_envs):
            env = scalar()
            try:
                _check_against_scalar(envs, mode, first_run, env, index, seed + index)
            finally:
                env.close()


@dataclass
class _Call:
    """A call of `reset` or `step`, its results as returned, and a copy of them."""

    name: str
    observations: Any
    infos: dict[str, Any]
    ended: NDArray[np.bool_]
    rewards: Any = None
    terminations: Any = None
    truncations: Any = None
    actions: Any = None
    reset_mask: NDArray[np.bool_] | None = None
    copied: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.copied = copy.deepcopy(self.results())

    def results(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _RESULTS}

    def of_env(self, envs: _Envs, index: int) -> dict[str, Any]:
        """The results of one environment, named as those of the scalar environment."""
        arrays = {"reward": self.rewards, "terminated": self.terminations}
        arrays["truncated"] = self.truncations
        results = {name: array[index] for name, array in arrays.items() if array is not None}
        results["observation"] = _select(envs.observation_space, self.observations, index)
        return results | {"info": _info_of_env(self.infos, index)}

    def check_unchanged(self, later: str) -> None:
        if found := _difference(self.results(), self.copied):
            _fail(later, f"has changed {found[0]}, which {self.name} returned: return fresh arrays")


class _Run:
    """One run of a vector environment, in which each call is checked."""

    def __init__(self, envs: _Envs, mode: AutoresetMode) -> None:
        self.envs, self.mode = envs, mode
        self.calls: list[_Call] = []

    def run(self, seed: int, steps: int) -> list[_Call]:
        # The caller's space keeps its random state.
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
            call.check_unchanged("a later call")
        return self.calls

    def _reset(
        self, name: str, reset_mask: NDArray[np.bool_] | None = None, **kwargs: Any
    ) -> _Call:
        results = self.envs.reset(**kwargs)
        if not isinstance(results, tuple) or len(results) != 2:
            _fail(name, f"reset must return observations and infos, got {_short_repr(results)}")
        ended = np.zeros(self.envs.num_envs, dtype=np.bool_)
        return self._append(_Call(name, *results, ended=ended, reset_mask=reset_mask))

    def _reset_ended(self, call: _Call) -> None:
        name, mask = f"reset with reset_mask after {call.name}", call.ended
        try:
            reset = self._reset(name, mask, options={"reset_mask": mask.copy()})
        except AssertionError:
            raise
        except Exception as error:
            text = f"mode DISABLED needs options={{'reset_mask': ...}}, got {_short_repr(error)}"
            raise AssertionError(f"{name}: {text}") from error
        kept = np.flatnonzero(~mask).tolist()
        got, expected = reset.observations, call.observations
        _compare_observations(self.envs, kept, name, got, expected, "not reset, before it")

    def _step(self, name: str, actions: Any) -> _Call:
        original_actions = copy.deepcopy(actions)
        results = self.envs.step(actions)
        if not isinstance(results, tuple) or len(results) != 5:
            _fail(name, f"step must return five results, got {_short_repr(results)}")
        observations, rewards, terminations, truncations, infos = results
        shape = (self.envs.num_envs,)
        for title, array, kind, dtype in (
            ("rewards", rewards, np.floating, "floating"),
            ("terminations", terminations, np.bool_, "bool"),
            ("truncations", truncations, np.bool_, "bool"),
        ):
            if not isinstance(array, np.ndarray):
                _fail(name, f"{title} must be a NumPy array, got {type(array).__name__}")
            if array.shape != shape or not np.issubdtype(array.dtype, kind):
                got = f"{array.shape} and {array.dtype}"
                _fail(name, f"{title} must have shape {shape} and a {dtype} dtype, got {got}")
        for index in np.flatnonzero(np.isnan(rewards)).tolist():
            _fail(name, "reward is not a number", index)
        if _difference(actions, original_actions):
            _fail(name, "step must not change the actions")
        previous, ended = self.calls[-1], terminations | truncations
        call = _Call(name, observations, infos, ended, *results[1:4], actions=original_actions)
        self._append(call)
        if self.mode is AutoresetMode.SAME_STEP:
            self._check_final(call)
        elif self.mode is AutoresetMode.NEXT_STEP:
            for index in np.flatnonzero(previous.ended & ((rewards != 0) | ended)).tolist():
                got = f"reward {rewards[index]}, terminated {terminations[index]}"
                text = "the step after an episode's end must only reset: reward 0, no flag"
                _fail(name, f"{text}, got {got}, truncated {truncations[index]}", index)
        return call

    def _append(self, call: _Call) -> _Call:
        _check_observations(self.envs, call)
        _check_infos(call.infos, "infos", call)
        if self.calls:
            self.calls[-1].check_unchanged(call.name)
        self.calls.append(call)
        return call

    def _check_final(self, call: _Call) -> None:
        """Check that infos hold the final observation and info of exactly the ended episodes."""
        for key in _FINAL:
            mask = np.zeros_like(call.ended)
            if key in call.infos and f"_{key}" in call.infos:
                mask = call.infos[f"_{key}"]
            for index in np.flatnonzero(mask != call.ended).tolist():
                text = f"the episode did not end, but infos['_{key}'] marks a {key}"
                if call.ended[index]:
                    text = f"the episode ended, so infos must hold {key}, marked in '_{key}'"
                _fail(call.name, text, index)
        for index in np.flatnonzero(call.ended).tolist():
            final_obs = _value_of_env(call.infos, "final_obs", index)
            if final_obs not in self.envs.single_observation_space:
                text = f"final_obs is not in single_observation_space: {_short_repr(final_obs)}"
                _fail(call.name, text, index)


def _check_declarations(envs: _Envs) -> AutoresetMode:
    mode = (envs.metadata or {}).get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        _fail("metadata", f"'autoreset_mode' must be an AutoresetMode, got {_short_repr(mode)}")
    if not isinstance(envs.num_envs, int) or envs.num_envs < 1:
        _fail("num_envs", f"must be an integer, at least 1, got {_short_repr(envs.num_envs)}")
    for name in ("observation_space", "action_space"):
        single, batched = getattr(envs, f"single_{name}"), getattr(envs, name)
        expected = batch_space(single, envs.num_envs)
        if batched != expected:
            text = f"must be {envs.num_envs} times single_{name}, {_short_repr(expected)}"
            _fail(name, f"{text}, got {_short_repr(batched)}")
    return mode


def _check_seeds(envs: _Envs, seed: int) -> None:
    """Check that a list of seeds has the same effect as their first number."""
    by_number, _ = copy.deepcopy(envs.reset(seed=seed))
    seeds = [seed + index for index in range(envs.num_envs)]
    try:
        by_list, _ = envs.reset(seed=seeds)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        text = f"reset must accept a list of seeds, one per environment, got {_short_repr(error)}"
        raise AssertionError(f"reset(seed={seeds}): {text}") from error
    name = f"reset(seed={seeds})"
    _compare_observations(envs, range(len(seeds)), name, by_list, by_number, f"with {seed=}")


def _check_observations(envs: _Envs, call: _Call) -> None:
    space = envs.observation_space
    if message := _wrong_array(space, call.observations, "observations"):
        _fail(call.name, message)
    if call.observations in space:
        return
    for index, each in enumerate(iterate(space, call.observations)):
        if each not in envs.single_observation_space:
            text = f"observation is not in its space: {_short_repr(each)}"
            _fail(call.name, text, index)
    _fail(call.name, f"observations are not in their space: {_short_repr(call.observations)}")


def _wrong_array(space: spaces.Space[Any], value: Any, name: str) -> str | None:
    """Describe a wrong shape or dtype, about which `contains` is lenient."""
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
    return next(filter(None, itertools.starmap(_wrong_array, parts)), None)


def _check_infos(infos: Any, name: str, call: _Call) -> None:
    """Check that every value has one entry per environment, and that masks are boolean."""
    if not isinstance(infos, Mapping):
        _fail(call.name, f"{name} must be a dict, got {type(infos).__name__}")
    num_envs = len(call.ended)
    for key, value in infos.items():
        title = f"{name}[{key!r}]"
        if isinstance(value, Mapping):
            _check_infos(value, title, call)
        elif not isinstance(value, np.ndarray | list | tuple) or len(value) != num_envs:
            text = f"{title} must have {num_envs} entries, one per environment"
            _fail(call.name, f"{text}, got {_short_repr(value)}")
        elif key.startswith("_") and key[1:] in infos and getattr(value, "dtype", None) != np.bool_:
            _fail(call.name, f"{title} is the mask of {key[1:]!r} and must be an array of bool")


def _check_memory(calls: list[_Call]) -> None:
    """Check that no two arrays share memory; all are still alive, so no address is reused."""
    found = [
        (*np.lib.array_utils.byte_bounds(array), index, f"{name} of {call.name}", array)
        for index, call in enumerate(calls)
        for name, array in _arrays(call.results(), "")
        if array.nbytes
    ]
    shared: list[tuple[tuple[int, str], tuple[int, str]]] = []
    open_ranges: list[tuple[int, int, int, str, NDArray[Any]]] = []
    for low, high, index, name, array in sorted(found, key=lambda each: each[0]):
        open_ranges = [each for each in open_ranges if each[1] > low]
        for _, _, other_index, other_name, other in open_ranges:
            if np.shares_memory(other, array):
                one, two = sorted([(other_index, other_name), (index, name)])
                shared.append((one, two))
        open_ranges.append((low, high, index, name, array))
    if shared:
        (_, one), (_, two) = min(shared, key=lambda pair: (pair[1][0], pair[0][0]))
        _fail(f"{one} and {two}", "share memory: return separate arrays")


def _check_against_scalar(
    envs: _Envs,
    mode: AutoresetMode,
    calls: list[_Call],
    env: gym.Env[Any, Any],
    index: int,
    seed: int,
) -> None:
    """Replay one environment's actions in the scalar environment, and compare all results."""
    over, first_seed = False, [seed]
    for call in calls:
        if call.reset_mask is not None and not call.reset_mask[index]:
            continue
        got = call.of_env(envs, index)
        expected: dict[str, Any] = {}
        if call.actions is None or (over and mode is AutoresetMode.NEXT_STEP):
            seed_of_call = first_seed.pop() if first_seed else None
            expected["observation"], expected["info"] = env.reset(seed=seed_of_call)
            over = False
        else:
            action = _select(envs.action_space, call.actions, index)
            observation, reward, terminated, truncated, info = env.step(action)
            # Flags come first in the comparison: where they differ, everything does.
            expected["reward"] = call.rewards.dtype.type(reward)
            expected["terminated"], expected["truncated"] = terminated, truncated
            over = bool(terminated or truncated)
            if over and mode is AutoresetMode.SAME_STEP:
                # Copies, because a scalar environment may reuse its arrays.
                expected |= copy.deepcopy({"final_obs": observation, "final_info": info})
                observation, info = env.reset()
            expected |= {"observation": observation, "info": info}
        if mode is AutoresetMode.SAME_STEP:
            got |= {key: got["info"].pop(key, _ABSENT) for key in _FINAL}
        where = f"environment {index}, {call.name}"
        for name, value in expected.items():
            _compare(where, name, got[name], value, "in the scalar environment")


def _info_of_env(infos: Mapping[str, Any], index: int) -> dict[str, Any]:
    masks = {key for key in infos if key.startswith("_") and key[1:] in infos}
    return {
        key: _value_of_env(infos, key, index)
        for key in infos
        if key not in masks and (f"_{key}" not in masks or infos[f"_{key}"][index])
    }


def _value_of_env(infos: Mapping[str, Any], key: str, index: int) -> Any:
    value = infos[key]
    return _info_of_env(value, index) if isinstance(value, Mapping) else value[index]


def _select(space: spaces.Space[Any], batch: Any, index: int) -> Any:
    return next(itertools.islice(iterate(space, batch), index, None))


class _Absent:
    """Placeholder of a missing value in comparisons."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _arrays(value: Any, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """All arrays in nested dicts, sequences and arrays of objects, by name."""
    if isinstance(value, np.ndarray):
        yield name, value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _arrays(each, f"{name}[{key!r}]" if name else key)
    elif _is_sequence(value):
        for index, each in enumerate(value):
            yield from _arrays(each, f"{name}[{index}]")


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == object and value.ndim > 0
    return isinstance(value, list | tuple)


def _difference(got: Any, expected: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Find the first difference of two nested values: path and both values."""
    pairs: list[tuple[Any, Any, str]] = []
    if isinstance(got, Mapping) and isinstance(expected, Mapping):
        for key in [*expected, *(key for key in got if key not in expected)]:
            inner = f"{path}[{key!r}]" if path else str(key)
            pairs.append((got.get(key, _ABSENT), expected.get(key, _ABSENT), inner))
    elif _is_sequence(got) and _is_sequence(expected) and len(got) == len(expected):
        for index, both in enumerate(zip(got, expected, strict=True)):
            pairs.append((*both, f"{path}[{index}]"))
    elif not _equal(got, expected):
        return path, got, expected
    return next(filter(None, itertools.starmap(_difference, pairs)), None)


def _equal(one: Any, other: Any) -> bool:
    if any(isinstance(each, Mapping | list | tuple) for each in (one, other)):
        return False
    if all(np.asarray(each).dtype.kind in "biufc" for each in (one, other)):
        return np.array_equal(one, other, equal_nan=True)
    return bool(np.array_equal(one, other))


def _compare(where: str, name: str, got: Any, expected: Any, reference: str) -> None:
    if found := _difference(got, expected, name):
        path, one, other = found
        _fail(where, f"{path} is {_short_repr(one)}, {reference} it is {_short_repr(other)}")


def _compare_observations(
    envs: _Envs, indices: Iterable[int], name: str, got: Any, expected: Any, reference: str
) -> None:
    for index in indices:
        one, other = (_select(envs.observation_space, each, index) for each in (got, expected))
        _compare(f"environment {index}, {name}", "observation", one, other, reference)


def _short_repr(value: Any, max_length: int = 120) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def _fail(where: str, text: str, index: int | None = None) -> NoReturn:
    place = where if index is None else f"environment {index}, {where}"
    raise AssertionError(f"{place}: {text}")
