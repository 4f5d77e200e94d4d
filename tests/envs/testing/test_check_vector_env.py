"""The check of vector environments: who passes, and that every defect is named."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from spangym.attention.observation_spec import ENCODINGS
from spangym.envs import ENVIRONMENTS, SpanControlEnv, SpanControlVectorEnv
from spangym.envs.testing.check_vector_env import check_vector_env
from tests.factories import small_env_kwargs

SMALL: dict[str, Any] = {
    "dims": 16,
    "heads": 2,
    "ctx": 32,
    "chunks_per_episode": 2,
    "encoding": "features",
}
MODES = pytest.mark.parametrize("mode", AutoresetMode)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_ours_passes(name: str, encoding: str):
    arguments = {**small_env_kwargs(name), "encoding": encoding}
    envs = gym.make_vec(name, 3, **arguments)
    check_vector_env(envs, lambda: gym.make(name, **arguments), seed=5, steps=14)


@pytest.mark.parametrize(
    "more",
    [
        {"control_kv_cache": True},
        {"pool_groups": 4, "autocorrelation": True, "include_layer_index": True},
        {"observation_time": "previous", "cost_coef": 0.5},
        {"reward": "attention"},
    ],
    ids=str,
)
def test_ours_passes_with_options(more: dict[str, Any]):
    arguments = {**SMALL, **more}
    check_vector_env(
        SpanControlVectorEnv(3, **arguments), lambda: SpanControlEnv(**arguments), steps=14
    )


@MODES
@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Blackjack-v1", "spangym/SpanControl-v0"], ids=["box", "tuple", "ours"]
)
def test_gymnasiums_own_passes(name: str, mode: AutoresetMode):
    def scalar() -> gym.Env[Any, Any]:
        return gym.make(name, **(SMALL if name in ENVIRONMENTS else {}))

    steps = 14 if name in ENVIRONMENTS else 200
    check_vector_env(SyncVectorEnv([scalar] * 3, autoreset_mode=mode), scalar, steps=steps)


def test_the_callers_action_space_draws_on():
    envs, other = (SpanControlVectorEnv(2, **SMALL) for _ in range(2))
    envs.action_space.seed(9)
    other.action_space.seed(9)
    check_vector_env(envs, steps=5)
    assert envs.action_space.sample().tolist() == other.action_space.sample().tolist()


def test_warns_where_no_episode_ends():
    with pytest.warns(UserWarning, match="no episode ended within 2 steps: no end was checked"):
        check_vector_env(SpanControlVectorEnv(2, **SMALL), steps=2)


class Told(SimpleNamespace):
    """What a step returned, to be spoilt, and what was kept of the steps before."""

    observations: Any
    rewards: Any
    terminations: Any
    truncations: Any
    infos: Any
    kept: dict[str, Any]


class Broken(SpanControlVectorEnv):
    """Keeps to the contract but for what a function spoils in each step."""

    def __init__(self, num_envs: int, spoil: Callable[[Told], None], **arguments: Any) -> None:
        super().__init__(num_envs, **arguments)
        self.spoil = spoil
        self.kept: dict[str, Any] = {}

    def step(self, actions: Any) -> Any:
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        told = Told(**dict(zip(names, super().step(actions), strict=True)), kept=self.kept)
        self.spoil(told)
        return tuple(getattr(told, name) for name in names)


def reused_observations(told: Told) -> None:
    buffer = told.kept.setdefault("buffer", np.empty_like(told.observations))
    buffer[:] = told.observations
    told.observations = buffer


def two_buffers_in_turn(told: Told) -> None:
    buffers = told.kept.setdefault("buffers", [np.empty_like(told.observations) for _ in "ab"])
    buffers.reverse()
    buffers[0][:] = told.observations
    told.observations = buffers[0]


def changed_much_later(told: Told) -> None:
    told.kept["step"] = told.kept.get("step", -1) + 1
    told.kept.setdefault("first", told.rewards)
    if told.kept["step"] == 5:
        told.kept["first"][:] = -1


def reused_infos(told: Told) -> None:
    if "span" in told.infos:
        buffer = told.kept.setdefault("span", told.infos["span"])
        buffer[:] = told.infos["span"]
        told.infos["span"] = buffer


def one_array_of_flags(told: Told) -> None:
    told.terminations = told.kept.setdefault("never", told.terminations)


def one_array_of_both_flags(told: Told) -> None:
    told.terminations = told.truncations


def final_obs_shares_the_observations(told: Told) -> None:
    if told.truncations.any():
        told.observations = np.stack([*told.infos["final_obs"]])
        told.infos["final_obs"][:] = [*told.observations]


def no_final_obs(told: Told) -> None:
    told.infos.pop("final_obs", None)


def no_mask_of_final_obs(told: Told) -> None:
    told.infos.pop("_final_obs", None)


def final_obs_of_one_env(told: Told) -> None:
    if "_final_obs" in told.infos:
        told.infos["_final_obs"][1:] = False


def final_obs_always(told: Told) -> None:
    if "final_obs" not in told.infos:
        rows = np.empty(len(told.rewards), dtype=object)
        rows[:] = [*told.observations.copy()]
        told.infos |= {"final_obs": rows, "_final_obs": np.ones(len(rows), dtype=np.bool_)}


def final_obs_of_the_new_episode(told: Told) -> None:
    if "final_obs" in told.infos:
        told.infos["final_obs"][:] = [*told.observations.copy()]


def final_obs_out_of_its_space(told: Told) -> None:
    if "final_obs" in told.infos:
        told.infos["final_obs"][2] = told.infos["final_obs"][2][:-1]


def no_final_info(told: Told) -> None:
    told.infos.pop("final_info", None)


def final_info_of_the_new_episode(told: Told) -> None:
    if "final_info" in told.infos:
        new = {key: told.infos[key].copy() for key in ("content_type", "_content_type")}
        told.infos["final_info"] = new


def not_resetting(told: Told) -> None:
    if "final_obs" in told.infos:
        told.observations = np.stack([*told.infos["final_obs"]])


def terminates_instead(told: Told) -> None:
    told.terminations, told.truncations = told.truncations, told.terminations


def reward_of_another_env(told: Told) -> None:
    told.rewards = np.roll(told.rewards, 1)


def observation_of_another_env(told: Told) -> None:
    told.observations = np.roll(told.observations, 1, axis=0)


def info_of_another_env(told: Told) -> None:
    if "reward_components" in told.infos:
        parts = told.infos["reward_components"]
        parts["coverage"] = np.roll(parts["coverage"], 1)


def info_left_out(told: Told) -> None:
    for key in ("span", "_span"):
        told.infos.pop(key, None)


def info_too_much(told: Told) -> None:
    told.infos["spare"] = np.arange(len(told.rewards))


def info_for_all_envs_at_once(told: Told) -> None:
    told.infos["spare"] = 3


def infos_as_a_list(told: Told) -> None:
    told.infos = [told.infos]


def mask_of_numbers(told: Told) -> None:
    told.infos["_content_type"] = told.infos["_content_type"].astype(np.int64)


def whole_rewards(told: Told) -> None:
    told.rewards = np.round(told.rewards).astype(np.int64)


def rewards_as_a_list(told: Told) -> None:
    told.rewards = told.rewards.tolist()


def rewards_as_a_column(told: Told) -> None:
    told.rewards = told.rewards[:, None]


def reward_not_a_number(told: Told) -> None:
    told.rewards[2] = np.nan


def flags_of_numbers(told: Told) -> None:
    told.truncations = told.truncations.astype(np.float32)


def wide_observations(told: Told) -> None:
    told.observations = told.observations.astype(np.float64)


def observation_out_of_its_space(told: Told) -> None:
    told.observations[1, 0] = 1e6


def not_reproducible(told: Told) -> None:
    told.kept["step"] = told.kept.get("step", 0) + 1
    told.rewards[1] += 1e-3 * told.kept["step"]


NOT_THERE = r"the episode ended, so that infos must hold its {0} and say so in '_{0}'"
SCALAR = r"in the scalar environment it is"


def named_defect(envs: SpanControlVectorEnv) -> str:
    with pytest.raises(AssertionError) as caught:
        check_vector_env(envs, lambda: SpanControlEnv(**SMALL), seed=7, steps=10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (reused_observations, r"step 1: has changed observations, which step 0 returned: return"),
        (two_buffers_in_turn, r"observations of step 0 and observations of step 2: share memory"),
        (changed_much_later, r"a later call: has changed rewards, which step 0 returned"),
        (reused_infos, r"step 1: has changed infos\['\w+'\].*, which step 0 returned"),
        (one_array_of_flags, r"terminations of step 0 and terminations of step 1: share memory"),
        (one_array_of_both_flags, r"terminations of step 0 and truncations of step 0: share mem"),
        (
            final_obs_shares_the_observations,
            r"infos\['final_obs'\]\[0\] of step 3 and observations of step 3: share memory",
        ),
        (no_final_obs, r"environment 0, step 3: " + NOT_THERE.format("final_obs")),
        (no_mask_of_final_obs, r"environment 0, step 3: " + NOT_THERE.format("final_obs")),
        (final_obs_of_one_env, r"environment 1, step 3: " + NOT_THERE.format("final_obs")),
        (
            final_obs_always,
            r"environment 0, step 0: the episode did not end, but infos\['_final_obs'\]",
        ),
        (final_obs_of_the_new_episode, rf"environment 0, step 3: final_obs is array.*, {SCALAR}"),
        (
            final_obs_out_of_its_space,
            r"environment 2, step 3: final_obs is not in single_observation_sp",
        ),
        (no_final_info, r"environment 0, step 3: " + NOT_THERE.format("final_info")),
        (
            final_info_of_the_new_episode,
            rf"environment 0, step 3: final_info\['chunk'\] is absent, {SCALAR} 1",
        ),
        (not_resetting, rf"environment 0, step 3: observation is array.*, {SCALAR}"),
        (terminates_instead, rf"environment 0, step 3: terminated is np\.True_, {SCALAR} False"),
        (
            reward_of_another_env,
            rf"environment 0, step 0: reward is np\.float32.*, {SCALAR} np\.float32",
        ),
        (
            observation_of_another_env,
            rf"environment 0, step 0: observation is array.*, {SCALAR} array",
        ),
        (
            info_of_another_env,
            rf"environment \d, step \d: info\['reward_components'\]\['coverage'\] is .*{SCALAR}",
        ),
        (info_left_out, rf"environment 0, step 0: info\['span'\] is absent, {SCALAR} \d+"),
        (
            info_too_much,
            rf"environment 0, step 0: info\['spare'\] is np.int64\(0\), {SCALAR} absent",
        ),
        (
            info_for_all_envs_at_once,
            r"step 0: infos\['spare'\] must have 3 entries, one per environment, ",
        ),
        (infos_as_a_list, r"step 0: infos must be a dict, got list"),
        (mask_of_numbers, r"step 0: infos\['_content_type'\] is the mask"),
        (whole_rewards, r"step 0: rewards must have shape \(3,\) and a floating dtype, .* int64"),
        (rewards_as_a_list, r"step 0: rewards must be a NumPy array, got list"),
        (rewards_as_a_column, r"step 0: rewards must have shape \(3,\) .*, got \(3, 1\) and floa"),
        (reward_not_a_number, r"environment 2, step 0: reward is not a number"),
        (
            flags_of_numbers,
            r"step 0: truncations must have .* a bool dtype, got \(3,\) and float32",
        ),
        (wide_observations, r"step 0: observations must have shape .* dtype float32, .*float64"),
        (observation_out_of_its_space, r"environment 1, step 0: observation is not in its space"),
        (
            not_reproducible,
            r"environment 1, step 0, second run: reward is .*, in the first run from",
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_defect_of_steps_is_named(spoil: Callable[[Told], None], message: str):
    assert re.match(message, named_defect(Broken(3, spoil, **SMALL)))


def test_what_the_defects_spoil_is_sound():
    envs = Broken(3, lambda told: None, **SMALL)  # noqa: ARG005
    check_vector_env(envs, lambda: SpanControlEnv(**SMALL), seed=7, steps=10)


class FourThings(SpanControlVectorEnv):
    def step(self, actions: Any) -> Any:
        return super().step(actions)[:4]


class OnlyObservations(SpanControlVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options=options)[0]


class ListOfObservations(SpanControlVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observations, infos = super().reset(seed=seed, options=options)
        return [*observations], infos


class ChangesActions(SpanControlVectorEnv):
    def step(self, actions: Any) -> Any:
        returned = super().step(actions)
        actions[0] = 0
        return returned


class OneSeedForAll(SpanControlVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        seed = [seed] * self.num_envs if isinstance(seed, int) else seed
        return super().reset(seed=seed, options=options)


class AnotherFirstSeed(SpanControlVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            seed = seed + 1 if isinstance(seed, int) else [each + 1 for each in seed]
        return super().reset(seed=seed, options=options)


class NoSeeds(SpanControlVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if isinstance(seed, list):
            raise TypeError("seed must be a number")
        return super().reset(seed=seed, options=options)


class SeededOnce(SpanControlVectorEnv):
    """Later seeds are not heeded."""

    seeded = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seeded += 1
        return super().reset(seed=seed if self.seeded <= 4 else None, options=options)


class NotReproducible(SpanControlVectorEnv):
    steps = 0

    def spoil(self, observations: Any, rewards: Any, *rest: Any) -> Any:
        self.steps += 1
        rewards[1] += 1e-4 * self.steps
        return observations, rewards, *rest


class ReseededEveryReset(SpanControlVectorEnv):
    """Without a seed, the same streams again."""

    last: Any = None

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.last = self.last if seed is None else seed
        return super().reset(seed=self.last, options=options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FourThings, r"step 0: step must return five things"),
        (ChangesActions, r"step 0: step must leave the actions as they are, it has changed them"),
        (OnlyObservations, r"reset\(seed=7\): reset must return observations and infos, got array"),
        (ListOfObservations, r"reset\(seed=7\): observations must be a NumPy array, got list"),
        (
            OneSeedForAll,
            r"environment 1, reset\(seed=\[7, 8, 9\]\): observation is .*, with seed=7 it is",
        ),
        (AnotherFirstSeed, rf"environment 0, reset\(seed=7\): observation is .*, {SCALAR}"),
        (NoSeeds, r"reset\(seed=\[7, 8, 9\]\): reset must take a list of seeds, .*be a number"),
        (
            SeededOnce,
            r"environment 0, reset\(seed=7\), second run: observation is .*, in the first run",
        ),
        (
            ReseededEveryReset,
            rf"environment 0, reset\(\) after step 9: observation is .*, {SCALAR}",
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_defect_of_calls_is_named(kind: type[SpanControlVectorEnv], message: str):
    assert re.match(message, named_defect(kind(3, **SMALL)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {}}, r"metadata: 'autoreset_mode' must be an AutoresetMode, got None"),
        (
            {"metadata": {"autoreset_mode": "SameStep"}},
            r"metadata: .*AutoresetMode, got 'SameStep'",
        ),
        ({"num_envs": 0}, r"num_envs: must be a number of environments, at least 1, got 0"),
        ({"num_envs": 2}, r"observation_space: must be that of 2 times single_observation_space"),
        (
            {"action_space": spaces.Discrete(10)},
            r"action_space: must be that of 3 times single_action_space, Multi.*, got Disc",
        ),
    ],
    ids=["no-mode", "mode-as-text", "no-environment", "another-number", "not-batched"],
)
def test_a_wrong_declaration_is_named(change: dict[str, Any], message: str):
    envs = SpanControlVectorEnv(3, **SMALL)
    for name, value in change.items():
        setattr(envs, name, value)
    with pytest.raises(AssertionError, match=message):
        check_vector_env(envs, steps=1)


def cart_pole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


class RewardWhenReset(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        over = self._autoreset_envs.copy()
        observations, rewards, *rest = super().step(actions)
        rewards[over] = 1
        return observations, rewards, *rest


class FlagWhenReset(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        over = self._autoreset_envs.copy()
        observations, rewards, terminations, *rest = super().step(actions)
        return observations, rewards, terminations | over, *rest


class StepsOnInstead(SyncVectorEnv):
    """Acts in the new episode within the step that should only reset."""

    def step(self, actions: Any) -> Any:
        for env_index in np.flatnonzero(self._autoreset_envs).tolist():
            self._autoreset_envs[env_index] = False
            self.envs[env_index].reset()
        observations, rewards, *rest = super().step(actions)
        return observations, np.zeros_like(rewards), *rest


class ResetsEveryEnv(SyncVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:  # noqa: ARG002
        return super().reset(seed=seed)


class ResetsNoMask(SyncVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if options:
            raise ValueError("options must be None")
        return super().reset(seed=seed)


class ResetsWithTheFirstSeed(SyncVectorEnv):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=7 if options else seed, options=options)


class NoCopies(SyncVectorEnv):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, copy=False, **more)


@pytest.mark.parametrize(
    ("kind", "mode", "message"),
    [
        (NoCopies, AutoresetMode.SAME_STEP, r"step 0: has changed observations, which reset\("),
        (
            RewardWhenReset,
            AutoresetMode.NEXT_STEP,
            r"environment \d, step \d+: the step after an episode's end only resets: reward 0 and no flag,"
            r" got reward 1.0, terminated False, truncated False",
        ),
        (
            FlagWhenReset,
            AutoresetMode.NEXT_STEP,
            r"environment \d, step \d+: the step after an episode's end .* terminated True, truncated F",
        ),
        (
            StepsOnInstead,
            AutoresetMode.NEXT_STEP,
            rf"environment 0, step 0: reward is np.float64\(0.0\), {SCALAR} np.float64\(1.0\)",
        ),
        (
            ResetsEveryEnv,
            AutoresetMode.DISABLED,
            r"environment \d, reset with reset_mask after step \d+: observation is .*, not reset, before",
        ),
        (
            ResetsNoMask,
            AutoresetMode.DISABLED,
            r"reset with reset_mask after step \d+: mode DISABLED needs options=\{'reset_mask'.*Va",
        ),
        (
            ResetsWithTheFirstSeed,
            AutoresetMode.DISABLED,
            rf"environment 0, reset with reset_mask after step \d+: observation is .*, {SCALAR}",
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_defect_of_an_autoreset_mode_is_named(
    kind: Callable[..., SyncVectorEnv], mode: AutoresetMode, message: str
):
    envs = kind([cart_pole] * 3, autoreset_mode=mode)
    with pytest.raises(AssertionError) as caught:
        check_vector_env(envs, cart_pole, seed=7)
    assert re.match(message, str(caught.value)), caught.value


def test_a_mode_that_is_not_kept_is_named():
    """Said to reset within the step, resets in the next."""
    envs = SyncVectorEnv([cart_pole] * 3)
    envs.metadata["autoreset_mode"] = AutoresetMode.SAME_STEP
    with pytest.raises(AssertionError, match=NOT_THERE.format("final_obs")):
        check_vector_env(envs, cart_pole)


class Dictionary(gym.Env[Any, Any]):
    """Observes a dict, and tells of arrays and lists."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(0, 1, (2,), np.float32), "count": spaces.Discrete(9)}
    )
    action_space = spaces.Discrete(2)
    count = 0

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        place = self.np_random.random(2, dtype=np.float32)
        info = {"place": place.copy(), "names": ["a", "b"][: self.count], "none": None}
        return {"place": place, "count": np.int64(self.count)}, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self._seen()

    def step(self, action: Any) -> Any:
        self.count += 1 + int(action)
        observation, info = self._seen()
        return observation, float(action), self.count > 4, False, info


class WideCount(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        observations, *rest = super().step(actions)
        return {**observations, "count": observations["count"].astype(np.int32)}, *rest


@MODES
def test_nested_observations_and_infos(mode: AutoresetMode):
    check_vector_env(SyncVectorEnv([Dictionary] * 3, autoreset_mode=mode), Dictionary, steps=30)
    with pytest.raises(AssertionError, match=r"step 0: observations\['count'\] must have shape"):
        check_vector_env(WideCount([Dictionary] * 3, autoreset_mode=mode), Dictionary)


def test_equal_observations_of_two_envs_are_no_defect():
    """A fixed start is allowed; so is an environment without any info."""

    class Fixed(Dictionary):
        def _seen(self) -> tuple[Any, dict[str, Any]]:
            return {"place": np.zeros(2, np.float32), "count": np.int64(self.count)}, {}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(SyncVectorEnv([Fixed] * 2), Fixed, steps=20)


def test_nothing_of_the_environment_is_left_changed_but_its_episode():
    envs = SpanControlVectorEnv(2, **SMALL)
    metadata = copy.deepcopy(envs.metadata)
    check_vector_env(envs, steps=5)
    assert envs.metadata == metadata
    assert not envs.closed


class OneBuffer(gym.Env[Any, Any]):
    """Observes how often it stepped, always in the same array."""

    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.count = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.count[:] = 0
        return self.count, {}

    def step(self, action: Any) -> Any:
        self.count += 1 + int(action)
        return self.count, 0.0, bool(self.count > 3), False, {}


class FreshArrays(OneBuffer):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed, options=options)
        return observation.copy(), info

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation.copy(), *rest


def test_a_scalar_environment_may_use_its_arrays_again():
    envs = SyncVectorEnv([FreshArrays] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    check_vector_env(envs, OneBuffer, steps=9)
    careless = SyncVectorEnv([OneBuffer] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(AssertionError, match=r"has changed infos\['final_obs'\]\[0\], which step"):
        check_vector_env(careless, OneBuffer, steps=9)
