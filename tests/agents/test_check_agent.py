"""`check_agent` on classes with one defect each, and on the built-in agents."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spangym.agents import BUILTIN_AGENTS, Refiner, check_agent


class Fine:
    def __init__(self, seed: int | None = None, rate: float = 0.2):
        self.random, self.rate = random.Random(seed), rate
        self.values: dict[tuple[int, int], float] = {}

    def choose_action(self, state: int) -> int:
        if self.random.random() < self.rate:
            return self.random.randrange(10)
        return self.greedy_action(state)

    def greedy_action(self, state: int) -> int:
        return max(range(10), key=lambda action: self.values.get((state, action), 0.0))

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        value = self.values.get((state, action), 0.0)
        self.values[state, action] = value + 0.1 * (reward - value)


class OutOfRange(Fine):
    def choose_action(self, state: int) -> int:
        return 10


_SEEDS = itertools.count()
"""Random seeds might give equal agents."""


class Unseeded(Fine):
    def __init__(self):
        super().__init__(next(_SEEDS))


class Needs(Fine):
    def __init__(self, needed: int):
        super().__init__(needed)


class Raises(Fine):
    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        raise ArithmeticError("no such luck")


class NoUpdate:
    def choose_action(self, state: int) -> int:
        return 0


class Nothing:
    pass


class Playing:
    """An agent that plays one action."""

    def __init__(self):
        self.action = 0

    def learn(self, env: Any, steps: int) -> None:
        env.reset()
        for _ in range(steps // env.num_envs):
            env.step(np.zeros(env.num_envs, int))
        self.action = 3

    def predict(self, observations: Any) -> Any:
        return np.full(len(observations), self.action)

    def save(self, path: Any) -> None:
        Path(path).with_suffix(".txt").write_text(str(self.action))

    def load(self, path: Any) -> None:
        self.action = int(Path(path).with_suffix(".txt").read_text())


class Greedy(Playing):
    def learn(self, env: Any, steps: int) -> None:
        super().learn(env, steps + 8)


class Floats(Playing):
    def predict(self, observations: Any) -> Any:
        return super().predict(observations).astype(float)


class Columns(Playing):
    def predict(self, observations: Any) -> Any:
        return super().predict(observations)[:, None]


class Spoils(Playing):
    def predict(self, observations: Any) -> Any:
        observations += 1
        return super().predict(observations)


class Forgets(Playing):
    def load(self, path: Any) -> None:
        self.action = 5


class Interrupted(Refiner):
    """Loses its table when resumed."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(Refiner(seed=5).state_dict())


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (OutOfRange, r"choose_action\(state\) gave 10.*0\.\.9"),
        (Unseeded, "equal seeds"),
        (Needs, "construction .*TypeError"),
        (Raises, "learning .*ArithmeticError: no such"),
        (NoUpdate, r"update\(state, action, reward, next_state\)"),
        (Nothing, "neither .*choose_action, update.*learn, predict"),
        (Greedy, r"learn\(env, steps\) .*520 of 512"),
        (Floats, r"predict\(observations\) gave 3\.0"),
        (Columns, r"shape \(4, 1\) for 4"),
        (Spoils, r"predict\(observations\) changes"),
        (Forgets, "saved and loaded"),
        (Interrupted, r"resumed from state_dict\(\)"),
    ],
)
def test_problems_are_reported(agent: type[Any], message: str):
    with pytest.raises(ValueError, match=f"(?s){agent.__name__} .*- .*{message}"):
        check_agent(agent)


def test_missing_optional_features_are_returned():
    storage, resuming = check_agent(Fine, rate=0.1)
    assert "save(path)" in storage
    assert "load_state_dict(state_dict)" in resuming
    assert check_agent(Refiner) == []
    assert check_agent(Playing) == [resuming]


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"'rte'.*'rate'"):
        check_agent(Fine, rte=0.1)


SLOW = ("a2c", "ars", "maskable_ppo", "qrdqn", "recurrent_ppo", "trpo")
ENV_AWARE = (
    "predictor",
    "threshold",
    "myopic",
    "oracle",
    "content-oracle",
    "learned-span",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in BUILTIN_AGENTS
        if name not in ENV_AWARE
    ],
)
def test_builtin_agents_conform(name: str):
    check_agent(name)
