"""What `check_agent` says of classes that lack something; each lacks one thing."""

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
"""Two seeds drawn at random might lead to the same agent."""


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
    """Says that its training can be gone on with, and loses what it has learned."""

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(Refiner(seed=5).state_dict())


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (OutOfRange, "choose_action(state) gave 10: an action is an integer in 0..9"),
        (Unseeded, "from the same seed it learns something else each time"),
        (Needs, "it cannot be made with no options: TypeError"),
        (Raises, "learning in 1 environment(s) fails: ArithmeticError: no such luck"),
        (NoUpdate, "no method update(state, action, reward, next_state)"),
        (Nothing, "neither a refiner (choose_action, update) nor an agent"),
        (Greedy, "learn(env, steps) took 520 of 512 steps in 4 environment(s)"),
        (Floats, "predict(observations) gave 3.0: an action is an integer"),
        (Columns, "gave shape (4, 1) for 4 environments: it must be one action per environment"),
        (Spoils, "predict(observations) changes the observations"),
        (Forgets, "saved and loaded it decides otherwise"),
        (Interrupted, "gone on with from state_dict() it learns something else"),
    ],
)
def test_what_is_wrong_is_said(agent: type[Any], said: str):
    with pytest.raises(ValueError, match=f"{agent.__name__} does not conform") as caught:
        check_agent(agent)
    assert said in str(caught.value)


def test_what_could_be_more_is_remarked():
    assert check_agent(Fine, rate=0.1) == [
        "nothing of it is stored: it has no save(path)",
        "a training that is interrupted begins anew: it has no state_dict() and "
        "load_state_dict(state_dict)",
    ]
    assert check_agent(Refiner) == []
    (remark,) = check_agent(Playing)
    assert "begins anew" in remark


def test_options_are_checked():
    with pytest.raises(ValueError, match="has no option 'rte'; did you mean 'rate'"):
        check_agent(Fine, rte=0.1)


SLOW = ("a2c", "ars", "maskable_ppo", "qrdqn", "recurrent_ppo", "trpo")
NEED_THE_ENVIRONMENT = (
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
        if name not in NEED_THE_ENVIRONMENT
    ],
)
def test_every_shipped_agent_conforms(name: str):
    check_agent(name)
