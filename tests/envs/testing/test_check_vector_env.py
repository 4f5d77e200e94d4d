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


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *((name, "features") for name in ENVIRONMENTS),
        *(("spangym/SpanControl-v0", encoding) for encoding in ENCODINGS),
    ],
)
def test_ours_passes(name: str, encoding: str):
    arguments = {**small_env_kwargs(name), "encoding": encoding, "chunks_per_episode": 2}
    envs = gym.make_vec(name, 2, **arguments)
    check_vector_env(envs, lambda: gym.make(name, **arguments), seed=5, steps=9)


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
        SpanControlVectorEnv(2, **arguments), lambda: SpanControlEnv(**arguments), steps=9
    )


@MODES
@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Blackjack-v1", "spangym/SpanControl-v0"], ids=["box", "tuple", "ours"]
)
def test_gymnasiums_own_passes(name: str, mode: AutoresetMode):
    def scalar() -> gym.Env[Any, Any]:
        return gym.make(name, **(SMALL if name in ENVIRONMENTS else {}))

    steps = 9 if name in ENVIRONMENTS else 60
    check_vector_env(SyncVectorEnv([scalar] * 2, autoreset_mode=mode), scalar, steps=steps)


def test_the_callers_action_space_draws_on():
    envs, other = (SpanControlVectorEnv(2, **SMALL) for _ in range(2))
    envs.action_space.seed(9)
    other.action_space.seed(9)
    check_vector_env(envs, steps=5)
    assert envs.action_space.sample().tolist() == other.action_space.sample().tolist()


def test_warns_where_no_episode_ends():
    with pytest.warns(UserWarning, match="no episode ended"):
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


def missing(index: int, key: str) -> str:
    """Message about a missing final observation or info."""
    return rf"environment {index}, step 3: .* ended, .*{key}.*'_{key}'"


def unequal(where: str, name: str, got: str = "", expected: str = "") -> str:
    """Message about a difference from the scalar environment."""
    return rf"{where}: {name} is {got}.*scalar environment.* is {expected}"


def named_defect(envs: SpanControlVectorEnv) -> str:
    with pytest.raises(AssertionError) as caught:
        check_vector_env(envs, lambda: SpanControlEnv(**SMALL), seed=7, steps=10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (reused_observations, r"step 1: .*observations.*step 0"),
        (two_buffers_in_turn, r"observations .*step 0.* observations .*step 2.*share"),
        (changed_much_later, r"a later call: .*rewards.*step 0"),
        (reused_infos, r"step 1: .*infos\['\w+'\].*step 0"),
        (one_array_of_flags, r"terminations .*step 0.* terminations .*step 1.*share"),
        (one_array_of_both_flags, r"terminations .*step 0.* truncations .*step 0.*share"),
        (
            final_obs_shares_the_observations,
            r"infos\['final_obs'\]\[0\] .*step 3.* observations .*step 3.*share",
        ),
        (no_final_obs, missing(0, "final_obs")),
        (no_mask_of_final_obs, missing(0, "final_obs")),
        (final_obs_of_one_env, missing(1, "final_obs")),
        (
            final_obs_always,
            r"environment 0, step 0: .*not end.*infos\['_final_obs'\]",
        ),
        (final_obs_of_the_new_episode, unequal("environment 0, step 3", "final_obs", "array")),
        (
            final_obs_out_of_its_space,
            r"environment 2, step 3: final_obs .*single_observation_space",
        ),
        (no_final_info, missing(0, "final_info")),
        (
            final_info_of_the_new_episode,
            unequal("environment 0, step 3", r"final_info\['chunk'\]", "absent", "1"),
        ),
        (not_resetting, unequal("environment 0, step 3", "observation", "array")),
        (terminates_instead, unequal("environment 0, step 3", "terminated", r"np\.True_", "False")),
        (
            reward_of_another_env,
            unequal("environment 0, step 0", "reward", r"np\.float32", r"np\.float32"),
        ),
        (
            observation_of_another_env,
            unequal("environment 0, step 0", "observation", "array", "array"),
        ),
        (
            info_of_another_env,
            unequal(r"environment \d, step \d", r"info\['reward_components'\]\['coverage'\]"),
        ),
        (info_left_out, unequal("environment 0, step 0", r"info\['span'\]", "absent", r"\d+")),
        (
            info_too_much,
            unequal("environment 0, step 0", r"info\['spare'\]", r"np.int64\(0\)", "absent"),
        ),
        (
            info_for_all_envs_at_once,
            r"step 0: infos\['spare'\] .*3 entries",
        ),
        (infos_as_a_list, r"step 0: infos .*dict.*list"),
        (mask_of_numbers, r"step 0: infos\['_content_type'\] .*mask.*bool"),
        (whole_rewards, r"step 0: rewards .*\(3,\).*floating.*int64"),
        (rewards_as_a_list, r"step 0: rewards .*NumPy array.*list"),
        (rewards_as_a_column, r"step 0: rewards .*\(3,\).*\(3, 1\)"),
        (reward_not_a_number, r"environment 2, step 0: reward .*not a number"),
        (
            flags_of_numbers,
            r"step 0: truncations .*bool.*float32",
        ),
        (wide_observations, r"step 0: observations .*float32.*float64"),
        (observation_out_of_its_space, r"environment 1, step 0: observation .*space"),
        (
            not_reproducible,
            r"environment 1, step 0, second run: reward .*first run",
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
        (FourThings, r"step 0: .*five"),
        (ChangesActions, r"step 0: .*actions"),
        (OnlyObservations, r"reset\(seed=7\): .*infos.*array"),
        (ListOfObservations, r"reset\(seed=7\): observations .*NumPy array.*list"),
        (
            OneSeedForAll,
            r"environment 1, reset\(seed=\[7, 8, 9\]\): observation .*seed=7",
        ),
        (AnotherFirstSeed, unequal(r"environment 0, reset\(seed=7\)", "observation")),
        (NoSeeds, r"reset\(seed=\[7, 8, 9\]\): .*list.*be a number"),
        (
            SeededOnce,
            r"environment 0, reset\(seed=7\), second run: observation .*first run",
        ),
        (
            ReseededEveryReset,
            unequal(r"environment 0, reset\(\) after step 9", "observation"),
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_defect_of_calls_is_named(kind: type[SpanControlVectorEnv], message: str):
    assert re.match(message, named_defect(kind(3, **SMALL)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {}}, r"metadata: .*AutoresetMode.*None"),
        (
            {"metadata": {"autoreset_mode": "SameStep"}},
            r"metadata: .*AutoresetMode.*'SameStep'",
        ),
        ({"num_envs": 0}, r"num_envs: .*at least 1.* 0"),
        ({"num_envs": 2}, r"observation_space: .*2 times single_observation_space"),
        (
            {"action_space": spaces.Discrete(10)},
            r"action_space: .*3 times single_action_space.*Multi.*Discrete",
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
        (NoCopies, AutoresetMode.SAME_STEP, r"step 0: .*observations.*reset\("),
        (
            RewardWhenReset,
            AutoresetMode.NEXT_STEP,
            r"environment \d, step \d+: .*only reset.*reward 1.0, terminated False",
        ),
        (
            FlagWhenReset,
            AutoresetMode.NEXT_STEP,
            r"environment \d, step \d+: .*only reset.*terminated True",
        ),
        (
            StepsOnInstead,
            AutoresetMode.NEXT_STEP,
            unequal("environment 0, step 0", "reward", r"np.float64\(0.0\)", r"np.float64\(1.0\)"),
        ),
        (
            ResetsEveryEnv,
            AutoresetMode.DISABLED,
            r"environment \d, .*reset_mask after step \d+: observation .*before",
        ),
        (
            ResetsNoMask,
            AutoresetMode.DISABLED,
            r".*reset_mask after step \d+: .*DISABLED.*ValueError",
        ),
        (
            ResetsWithTheFirstSeed,
            AutoresetMode.DISABLED,
            unequal(r"environment 0, .*reset_mask after step \d+", "observation"),
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
    with pytest.raises(AssertionError, match=r"ended.*'_final_obs'"):
        check_vector_env(envs, cart_pole)


class Dictionary(gym.Env[Any, Any]):
    """Observes a dict, and tells of arrays and lists."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(0, 1, (2,), np.float32), "count": spaces.Discrete(9)}
    )
    action_space = spaces.Discrete(2)
    count = 0

    def observe(self) -> tuple[Any, dict[str, Any]]:
        place = self.np_random.random(2, dtype=np.float32)
        info = {"place": place.copy(), "names": ["a", "b"][: self.count], "none": None}
        return {"place": place, "count": np.int64(self.count)}, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed, options=options)
        self.count = 0
        return self.observe()

    def step(self, action: Any) -> Any:
        self.count += 1 + int(action)
        observation, info = self.observe()
        return observation, float(action), self.count > 4, False, info


class WideCount(SyncVectorEnv):
    def step(self, actions: Any) -> Any:
        observations, *rest = super().step(actions)
        return {**observations, "count": observations["count"].astype(np.int32)}, *rest


@MODES
def test_nested_observations_and_infos(mode: AutoresetMode):
    check_vector_env(SyncVectorEnv([Dictionary] * 3, autoreset_mode=mode), Dictionary, steps=30)
    with pytest.raises(AssertionError, match=r"step 0: observations\['count'\]"):
        check_vector_env(WideCount([Dictionary] * 3, autoreset_mode=mode), Dictionary)


def test_equal_observations_of_two_envs_are_no_defect():
    """A fixed start is allowed; so is an environment without any info."""

    class Fixed(Dictionary):
        def observe(self) -> tuple[Any, dict[str, Any]]:
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
    with pytest.raises(AssertionError, match=r"infos\['final_obs'\]\[0\]"):
        check_vector_env(careless, OneBuffer, steps=9)
