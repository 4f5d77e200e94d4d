"""Step, reset, fork and restore in any order: restored environments continue bit-exactly."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from spangym.envs import SB3SpanControlVecEnv, SpanControlEnv, make_config

TINY: dict[str, Any] = {
    "dims": 8,
    "heads": 2,
    "ctx": 16,
    "chunks_per_episode": 2,
    "encoding": "features",
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"control_kv_cache": True, "cost_coef": 0.5},
    {"observation_time": "previous", "autocorrelation": True},
    {"reward": "attention", "num_layers": 3},
    {"layer_variant": "original", "control_kv_cache": True},
]
VARIANT = pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: "-".join(each) or "plain")


def play(env: SpanControlEnv, steps: int = 7) -> list[Any]:
    """What a fixed sequence of actions leads to, across the end of an episode."""
    seen = []
    for index in range(steps):
        action: Any = index * 3 % 10
        if env.config.control_kv_cache:
            action = np.array([action, index % 2, index % 3 > 0])
        step = env.step(action)
        seen.append(step)
        if step[3]:
            seen.append(env.reset())
    return seen


@VARIANT
def test_a_restored_environment_goes_on_bit_exactly(variant: dict[str, Any]):
    env = SpanControlEnv(**TINY, **variant)
    env.reset(seed=3)
    play(env, 3)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other = SpanControlEnv(**TINY, **variant)
    other.reset(seed=99)
    # Weights only: nothing in it needs a pickle.
    other.load_state_dict(torch.load(file, weights_only=True))
    assert env.renderer == other.renderer
    assert env.np_random_seed == other.np_random_seed == 3
    assert data_equivalence(play(env), play(other), exact=True)


@VARIANT
def test_what_is_kept_is_not_changed_by_going_on(variant: dict[str, Any]):
    env = SpanControlEnv(**TINY, **variant)
    env.reset(seed=3)
    kept = env.state_dict()
    expected = play(env)
    for _ in range(2):
        env.load_state_dict(kept)
        assert data_equivalence(play(env), expected, exact=True)


def test_before_the_first_reset_there_is_nothing_to_keep():
    env, other = SpanControlEnv(**TINY), SpanControlEnv(**TINY)
    env.reset(seed=1)
    env.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.step(0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ctx": 32}, "ctx .*16.*32"),
        ({"chunks_per_episode": 3}, "chunks_per_episode .*2"),
        ({"dims": 16}, "dims .*8"),
        ({"num_layers": 3}, "num_layers .*2"),
        ({"control_kv_cache": True}, "control_kv_cache .*False"),
        ({"observation_time": "previous"}, "observation_time .*current"),
        ({"autocorrelation": True}, "num_features .*16.*25"),
    ],
)
def test_a_state_of_another_environment_is_refused(change: dict[str, Any], named: str):
    env, other = SpanControlEnv(**TINY), SpanControlEnv(**{**TINY, **change})
    env.reset(seed=1)
    other.reset(seed=2)
    before = other.peek()
    with pytest.raises(ValueError, match=f"another environment: .*{named}"):
        other.load_state_dict(env.state_dict())
    assert (other.peek() == before).all()


def test_a_state_of_another_task_is_refused():
    arguments = {"checkpoint": "sparsity", "dataset": "sparsity", "chunks_per_episode": 1}
    env = SpanControlEnv(**arguments, reward="quality")
    env.reset(seed=1)
    with pytest.raises(ValueError, match=r"task .*False.*True"):
        SpanControlEnv(**arguments, reward="task").load_state_dict(env.state_dict())


def test_a_env_of_the_other_faces_goes_on_as_a_scalar_environment():
    config = make_config("spangym/SpanControl-v0", TINY)
    stable, scalar = SB3SpanControlVecEnv(config), SpanControlEnv(**TINY)
    stable.seed(3)
    stable.reset()
    stable.step(np.array([4]))
    scalar.load_state_dict(stable.state_dict())
    seen = np.asarray(stable.step(np.array([7]))[0])
    np.testing.assert_array_equal(scalar.step(7)[0], seen[0])


def test_a_seed_that_waits_for_reset_is_kept():
    config = make_config("spangym/SpanControl-v0", TINY)
    envs, other = SB3SpanControlVecEnv(config, 2), SB3SpanControlVecEnv(config, 2)
    envs.seed(np.int64(3))  # pyright: ignore[reportArgumentType]
    other.load_state_dict(envs.state_dict())
    np.testing.assert_array_equal(np.asarray(envs.reset()), np.asarray(other.reset()))


class AnyOrder(RuleBasedStateMachine):
    """Some environments beside the sequence of actions that each was led by from its seed."""

    make: Callable[[], SpanControlEnv]
    known: dict[Any, Any]

    @initialize()
    def begin(self) -> None:
        self.envs = [self.make()]
        self.histories: list[tuple[int, list[Any]]] = [(0, [])]
        self.envs[0].reset(seed=0)
        self.kept: list[tuple[dict[str, Any], tuple[int, list[Any]]]] = []

    @rule(which=st.integers(0, 9), seed=st.integers(0, 5))
    def reset(self, which: int, seed: int) -> None:
        index = which % len(self.envs)
        self.envs[index].reset(seed=seed)
        self.histories[index] = (seed, [])

    @rule(which=st.integers(0, 9), span=st.integers(0, 9), refresh=st.integers(0, 3))
    def step(self, which: int, span: int, refresh: int) -> None:
        index = which % len(self.envs)
        env, (seed, actions) = self.envs[index], self.histories[index]
        action: Any = np.array([span, *divmod(refresh, 2)]) if env.config.control_kv_cache else span
        observation, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        assert reward == pytest.approx(sum(info["reward_components"].values()), abs=1e-6)
        assert not terminated
        self.histories[index] = (seed, [*actions, action])
        if truncated:
            assert (info["chunk"], info["layer"]) == (
                TINY["chunks_per_episode"] - 1,
                env.config.num_layers - 1,
            )
            self.reset(index, seed)

    @precondition(lambda self: len(self.envs) < 4)
    @rule(which=st.integers(0, 9))
    def fork(self, which: int) -> None:
        index = which % len(self.envs)
        self.envs.append(self.envs[index].fork())
        self.histories.append(copy.copy(self.histories[index]))

    @rule(which=st.integers(0, 9))
    def keep(self, which: int) -> None:
        index = which % len(self.envs)
        self.kept.append((self.envs[index].state_dict(), self.histories[index]))

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 9), what=st.integers(0, 9))
    def restore(self, which: int, what: int) -> None:
        index = which % len(self.envs)
        state, history = self.kept[what % len(self.kept)]
        self.envs[index].load_state_dict(state)
        self.histories[index] = history

    @invariant()
    def every_one_is_where_its_actions_lead(self) -> None:
        for env, (seed, actions) in zip(self.envs, self.histories, strict=True):
            assert env.core.step_count == len(actions)
            hidden, rewards = self.expected(seed, actions)
            assert torch.equal(env.core.state.hidden, hidden)
            assert (env.peek() == rewards).all()

    def expected(self, seed: int, actions: list[Any]) -> tuple[torch.Tensor, Any]:
        """Hidden state and one-step rewards of a new environment after these actions."""
        key = (seed, str([np.asarray(action).tolist() for action in actions]))
        if key not in self.known:
            fresh = self.make()
            fresh.reset(seed=seed)
            for action in actions:
                fresh.step(action)
            self.known[key] = fresh.core.state.hidden, fresh.peek()
        return self.known[key]


@pytest.mark.parametrize("examples", [3, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"control_kv_cache": True, "cost_coef": 0.5},
        {"observation_time": "previous", "autocorrelation": True},
    ],
    ids=lambda each: "-".join(each) or "plain",
)
def test_any_order_of_calls(variant: dict[str, Any], examples: int):
    members = {"make": lambda _: SpanControlEnv(**TINY, **variant), "known": {}}
    run_state_machine_as_test(
        type("AnyOrderOf", (AnyOrder,), members),
        settings=settings(max_examples=examples, stateful_step_count=10, deadline=None),
    )
