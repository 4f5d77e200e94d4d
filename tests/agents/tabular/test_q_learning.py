import copy
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.agents import Refiner
from spangym.agents.tabular.q_table import QRow
from spangym.agents.tabular.schedules import LinearSchedule
from spangym.attention import SpanController

from ...conftest import Golden

NUM_STATES = 6
NUM_ACTIONS = 4

REPEATABLE = settings(derandomize=True, deadline=None)

Decision = tuple[int, int, float, int, int]
"""State, action, reward, next state and environment."""


@st.composite
def _decisions(draw: st.DrawFn) -> list[Decision]:
    """Decisions in two environments, most of which start at the environment's last next state."""
    drawn = st.tuples(
        st.booleans(),
        st.integers(0, NUM_STATES - 1),
        st.integers(0, NUM_ACTIONS - 1),
        st.integers(-2, 2),
        st.integers(0, NUM_STATES - 1),
        st.integers(0, 1),
    )
    places, decisions = [0, 0], []
    for elsewhere, state, action, reward, next_state, env_index in draw(
        st.lists(drawn, max_size=30)
    ):
        start = state if elsewhere else places[env_index]
        decisions.append((start, action, float(reward), next_state, env_index))
        places[env_index] = next_state
    return decisions


DECISIONS = _decisions()

OPTIONS = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.1, 0.5, LinearSchedule(1.0, 0.1, 7)]),
        "gamma": st.sampled_from([0.0, 0.9, 1.0]),
        "epsilon": st.sampled_from([0.0, 0.3, LinearSchedule(1.0, 0.0, 9)]),
        "tie_breaking": st.sampled_from(["lowest", "random"]),
        "initial_q": st.sampled_from([0.0, 2.0]),
        "count_based_lr": st.booleans(),
        "double_q": st.booleans(),
        "lambda_": st.sampled_from([0.0, 0.8, 1.0]),
        "watkins": st.booleans(),
    }
)


def make(**options: Any) -> Refiner:
    return Refiner(**{"states": NUM_STATES, "actions": NUM_ACTIONS, "seed": 1, **options})


def play(refiner: Refiner, decisions: Iterable[Decision]) -> list[int]:
    """Update on given decisions; return the actions that the refiner would have chosen."""
    chosen = []
    for decision in decisions:
        chosen.append(refiner.choose_action(decision[0]))
        refiner.update(*decision)
    return chosen


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class TextbookRefiner:
    """The same algorithms, each value by itself in a dictionary."""

    def __init__(self, seed: int, options: dict[str, Any]) -> None:
        self.options = options
        # The refiner draws blocks of 128 and takes the last first.
        self.draws = np.random.default_rng(seed).random(128).tolist()
        self.initial: float = options["initial_q"]
        self.alpha, self.gamma = (
            LinearSchedule.from_config("alpha", options["alpha"]),
            options["gamma"],
        )
        self.tables: list[dict[tuple[int, int], float]] = [
            {} for _ in range(1 + options["double_q"])
        ]
        self.visits = [Counter[tuple[int, int]]() for _ in self.tables]
        self.traces: dict[int, dict[tuple[int, int], float]] = {0: {}, 1: {}}
        self.places: dict[int, int] = {}
        self.updates = 0

    def of(self, table: int, state: int, action: int) -> float:
        return self.tables[table].get((state, action), self.initial)

    def get_value(self, state: int, action: int) -> float:
        shown = [self.of(table, state, action) for table in range(len(self.tables))]
        return float(np.mean(shown))

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int
    ) -> None:
        learns = judges = 0
        if self.options["double_q"]:
            learns = int(self.draws.pop() < 0.5)
            judges = 1 - learns
        greedy = max(range(NUM_ACTIONS), key=lambda each: self.of(learns, next_state, each))
        target = reward + self.gamma * self.of(judges, next_state, greedy)
        error = target - self.of(learns, state, action)
        self.visits[learns][state, action] += 1
        traces = self.traces[env_index]
        best = max(self.get_value(state, each) for each in range(NUM_ACTIONS))
        cut = self.options["watkins"] and self.get_value(state, action) < best
        if self.places.get(env_index) != state or cut:
            traces.clear()
        for decision in [*traces]:
            traces[decision] *= self.gamma * self.options["lambda_"]
            if traces[decision] < 1e-4:
                del traces[decision]
        traces[state, action] = 1.0
        for decision, weight in traces.items():
            rate = self.alpha(self.updates)
            if self.options["count_based_lr"]:
                rate = max(rate, 1 / max(1, self.visits[learns][decision]))
            self.tables[learns][decision] = self.of(learns, *decision) + rate * (weight * error)
        self.places[env_index] = next_state
        self.updates += 1


def values(refiner: Refiner | TextbookRefiner) -> list[list[float]]:
    return [
        [refiner.get_value(state, a) for a in range(NUM_ACTIONS)] for state in range(NUM_STATES)
    ]


def test_reproduces_the_original(golden: Golden):
    recorded = golden("refiner")
    refiner = Refiner(epsilon=0.0)
    rows = zip(
        *(recorded[name] for name in ("state", "action", "reward", "next_state")), strict=True
    )
    for row, value in zip(rows, recorded["value_after"], strict=True):
        state, action, reward, next_state = (each.item() for each in row)
        refiner.update(state, action, reward, next_state)
        assert refiner.get_value(state, action) == pytest.approx(value, abs=1e-12)
    greedy = [refiner.greedy_action(state) for state in range(10)]
    assert greedy == recorded["greedy"].tolist()


class OriginalRefiner:
    """The original's table: a dict of the values that were updated."""

    def __init__(self) -> None:
        self.R: dict[tuple[int, int], float] = {}

    def get_value(self, state: int, action: int) -> float:
        return self.R.get((state, action), 0.0)

    def set_value(self, state: int, action: int, value: float) -> None:
        self.R[(state, action)] = value

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        best = max(self.get_value(next_state, each) for each in range(NUM_ACTIONS))
        value = self.get_value(state, action)
        self.set_value(state, action, value + 0.1 * (reward + 0.9 * best - value))


@REPEATABLE
@given(decisions=DECISIONS, puts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3))))
def test_values_are_those_of_the_original(decisions: list[Decision], puts: list[tuple[int, int]]):
    refiner, original = make(), OriginalRefiner()
    for state, action, reward, next_state, _ in decisions:
        for each in (refiner, original):
            each.update(state, action, reward, next_state)
        for state, action in puts[:1]:
            puts = puts[1:]
            for each in (refiner, original):
                each.set_value(state, action, 0.25)
        assert dict(refiner.R) == pytest.approx(original.R)
    other = make()
    other.load_state_dict(refiner.state_dict())
    assert dict(other.R) == dict(refiner.R)
    assert len(refiner.R) == len(original.R)


@pytest.mark.parametrize("double_q", [False, True])
def test_values_can_be_changed(double_q: bool):
    refiner = make(double_q=double_q, initial_q=2.0, epsilon=0.0)
    values = refiner.R
    assert dict(values) == {}
    assert refiner.get_value(3, 1) == 2.0
    refiner.set_value(3, 1, 5.0)
    values[3, 0] = 1.0
    assert dict(values) == {(3, 0): 1.0, (3, 1): 5.0}
    assert [refiner.get_value(3, action) for action in range(NUM_ACTIONS)] == [1.0, 5.0, 2.0, 2.0]
    assert refiner.choose_action(3) == refiner.greedy_action(3) == 1
    del values[3, 1]
    assert refiner.choose_action(3) == 1  # The lowest of those with the initial value.
    assert (3, 1) not in values
    assert values.get((3, 1), 0.0) == 0.0
    assert refiner.get_value(3, 1) == 2.0
    values.clear()
    assert dict(values) == {}
    for wrong in (-1, NUM_ACTIONS):
        with pytest.raises(ValueError, match=r"action must be in 0\.\.3"):
            refiner.set_value(3, wrong, 1.0)


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS, seed=st.integers(0, 9))
def test_learns_as_the_textbook_does(options: dict[str, Any], decisions: list[Decision], seed: int):
    refiner = make(seed=seed, **options)
    textbook = TextbookRefiner(seed, options)
    for decision in decisions:
        refiner.update(*decision)
        textbook.update(*decision)
    assert values(refiner) == values(textbook)


@REPEATABLE
@given(decisions=DECISIONS)
def test_options_without_effect(decisions: list[Decision]):
    refiners = [
        make(**options)
        for options in (
            {},
            {"lambda_": 1e-9},
            {
                "alpha": {"start": 0.1, "end": 0.1, "steps": 3},
                "epsilon": LinearSchedule(0.1, 0.1, 1),
            },
        )
    ]
    assert len({tuple(play(refiner, decisions)) for refiner in refiners}) == 1
    assert all(values(refiner) == values(refiners[0]) for refiner in refiners)


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS, at=st.integers(0, 30))
def test_saving_and_loading_continues_identically(
    options: dict[str, Any], decisions: list[Decision], at: int
):
    refiner, other = make(seed=3, **options), make(seed=4, **options)
    play(refiner, decisions[:at])
    play(other, [(5, 3, 100.0, 5, 1)])  # Loading replaces this.
    with tempfile.TemporaryDirectory() as folder:
        refiner.save(Path(folder, "agent"))
        other.load(Path(folder, "agent"))
    assert_equal(refiner.state_dict(), other.state_dict())
    rest = decisions[at:] + decisions
    assert play(refiner, rest) == play(other, rest)
    assert_equal(refiner.state_dict(), other.state_dict())


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS)
def test_greedy_actions_equal_greedy_action(options: dict[str, Any], decisions: list[Decision]):
    refiner = make(**options)
    play(refiner, decisions)
    before = refiner.state_dict()
    states = np.arange(NUM_STATES).reshape(2, 3)
    actions = refiner.greedy_actions(states)
    assert actions.dtype == np.int64
    assert actions.ravel().tolist() == [refiner.greedy_action(each) for each in range(NUM_STATES)]
    for row, action in zip(values(refiner), actions.ravel(), strict=True):
        assert row[action] == max(row)
    assert_equal(refiner.state_dict(), before)


@REPEATABLE
@given(puts=st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), max_size=40))
def test_row_maximum(puts: list[tuple[int, int]]):
    row = QRow([0.0] * 4)
    for action, value in puts:
        row.set(action, float(value))
        assert (row.best, row.greedy) == (max(row), row.index(max(row)))


def test_copies_are_independent():
    refiner = make()
    other = copy.deepcopy(refiner)
    other.update(1, 2, 1.0, 1)
    assert refiner.get_value(1, 2) == 0
    assert other.get_value(0, 2) == 0


def test_exploration_rate():
    refiner = Refiner(epsilon=0.1, seed=0)
    refiner.update(5, 4, 1.0, 0)
    chosen = [refiner.choose_action(5) for _ in range(4000)]
    other = sum(action != 4 for action in chosen) / len(chosen)
    assert other == pytest.approx(0.1 * 0.9, abs=0.015)
    assert set(chosen) == set(range(10))


def test_epsilon_schedule():
    refiner = Refiner(epsilon={"start": 1.0, "end": 0.0, "steps": 400}, seed=0)
    refiner.update(5, 4, 1.0, 0)
    chosen = np.array([refiner.choose_action(5) for _ in range(600)])
    shares = [(part != 4).mean() for part in np.split(chosen, 3)]
    assert shares == pytest.approx([0.9 * 0.75, 0.9 * 0.25, 0.0], abs=0.08)
    assert refiner.epsilon == 0


def test_ties_go_to_the_lowest_action():
    assert Refiner(epsilon=0.0).choose_action(123) == 0


def test_random_tie_breaking_is_uniform():
    refiner = Refiner(epsilon=0.0, tie_breaking="random", seed=0)
    for action in (0, 3, 7):
        refiner.update(5, action, -1.0, 5)
    chosen = Counter(refiner.choose_action(5) for _ in range(2100))
    assert chosen.keys() == {1, 2, 4, 5, 6, 8, 9}
    assert max(chosen.values()) < 1.25 * min(chosen.values())
    spread = np.bincount(refiner.greedy_actions(np.arange(9999)), minlength=10)
    assert spread.max() < 1.05 * spread.min()


def test_optimistic_values_make_it_try_every_action():
    refiner = Refiner(epsilon=0.0, initial_q=5.0, gamma=0.0)
    for _ in range(10):
        refiner.update(1, refiner.choose_action(1), 1.0, 1)
    assert len({refiner.get_value(1, action) for action in range(10)}) == 1
    assert refiner.get_value(1, 0) < 5 == refiner.get_value(2, 0)


@REPEATABLE
@given(rewards=st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_count_based_learning_rate_gives_the_mean(rewards: list[float]):
    refiner = Refiner(alpha=1e-12, gamma=0.0, count_based_lr=True, initial_q=100.0)
    for reward in rewards:
        refiner.update(3, 4, reward, 3)
    assert refiner.get_value(3, 4) == pytest.approx(np.mean(rewards), abs=1e-9)


def test_traces_credit_earlier_decisions():
    refiner = Refiner(gamma=0.5, lambda_=0.5)
    for state in range(3):
        refiner.update(state, 0, float(state == 2), state + 1, env_index=1)
        refiner.update(9, 0, 0.0, 9, env_index=0)
    values = [refiner.get_value(state, 0) for state in (2, 1, 0, 9)]
    assert values == pytest.approx([0.1, 0.1 / 4, 0.1 / 16, 0.0])


def test_is_a_span_controller():
    assert isinstance(Refiner(), SpanController)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"states": 1}, r"states must be in 2\.\.1000000, got 1"),
        ({"actions": 1.5}, "actions must be an integer, got 1.5"),
        ({"alpha": 0.0}, r"alpha .*\(0, 1\]"),
        ({"alpha": LinearSchedule(0.5, 0.0, 10)}, r"alpha .*got 0.0"),
        ({"alpha": "0.5"}, "alpha .*number, got '0.5'.*start, end, steps"),
        ({"gamma": 1.1}, r"gamma .*\[0, 1\]"),
        ({"epsilon": -0.1}, r"epsilon .*\[0, 1\]"),
        ({"epsilon": {"start": 1, "end": 2, "steps": 9}}, "epsilon .*got 2"),
        ({"epsilon": {"start": 1, "end": 0, "step": 9}}, "epsilon .*'step'.*'steps'"),
        ({"epsilon": {"start": 1, "steps": 9}}, "epsilon lacks end"),
        ({"epsilon": {"start": 1, "end": 0, "steps": 0}}, "epsilon: steps .*got 0"),
        ({"tie_breaking": "highest"}, "tie_breaking .*'lowest' or 'random'"),
        ({"initial_q": float("nan")}, "initial_q .*finite"),
        ({"count_based_lr": "yes"}, "count_based_lr .*true or false"),
        ({"double_q": 2}, "double_q .*true or false"),
        ({"lambda_": 1.5}, r"lambda_ .*\[0, 1\]"),
    ],
)
def test_invalid_options(options: dict[str, Any], rule: str):
    with pytest.raises((TypeError, ValueError), match=rule):
        Refiner(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"double_q": True}, "'second_states' is missing"),
        ({"states": 7}, "6 states .* 7"),
        ({"epsilon": LinearSchedule(1.0, 0.1, 9)}, "'counts' is missing"),
        ({"actions": 3}, "4 actions .* 3"),
    ],
)
def test_state_of_a_refiner_with_other_options(
    options: dict[str, Any], message: str, tmp_path: Path
):
    refiner, other = make(), make(**options)
    for each in (refiner, other):
        each.update(1, 2, 1.0, 1)
    refiner.save(tmp_path / "agent")
    before = other.state_dict()
    with pytest.raises(ValueError, match=rf"agent\.safetensors .*{message}"):
        other.load(tmp_path / "agent")
    assert_equal(other.state_dict(), before)
    if "double_q" in options:
        with pytest.raises(ValueError, match="'second_states' is not used"):
            refiner.load_state_dict(before)
