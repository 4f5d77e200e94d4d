import copy
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.agents import Refiner
from spangym.agents.tabular.q_table import STORAGES, QRow
from spangym.agents.tabular.schedules import LinearSchedule
from spangym.attention import SpanController

from ..conftest import Golden

NUM_STATES = 6
NUM_ACTIONS = 4

REPEATABLE = settings(derandomize=True, deadline=None)

STORED = pytest.mark.parametrize("storage", STORAGES)

Decision = tuple[int, int, float, int, int]
"""State, action, reward, next state and environment."""


@st.composite
def _decisions(draw: st.DrawFn) -> list[Decision]:
    """Decisions in two environments, most of which go on from where the environment's last one led."""
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
    return Refiner(**{"n_states": NUM_STATES, "n_actions": NUM_ACTIONS, "seed": 1, **options})


def play(refiner: Refiner, decisions: Iterable[Decision]) -> list[int]:
    """Have it learn decisions, whatever it would have chosen itself, and say what that was."""
    chosen = []
    for decision in decisions:
        chosen.append(refiner.choose_action(decision[0]))
        refiner.update(*decision)
    return chosen


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class WithCoins(Refiner):
    """Draws given numbers."""

    coins: Iterator[float]

    def _draw(self) -> float:
        return next(self.coins)


class Plain:
    """The same by the book: no rows, nothing at hand, all values in dictionaries."""

    def __init__(self, coins: Iterator[float], options: dict[str, Any]) -> None:
        self.coins, self.options = coins, options
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

    def q_value(self, state: int, action: int) -> float:
        shown = [self.of(table, state, action) for table in range(len(self.tables))]
        return float(np.mean(shown))

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int
    ) -> None:
        learns = judges = 0
        if self.options["double_q"]:
            learns = int(next(self.coins) < 0.5)
            judges = 1 - learns
        greedy = max(range(NUM_ACTIONS), key=lambda each: self.of(learns, next_state, each))
        target = reward + self.gamma * self.of(judges, next_state, greedy)
        error = target - self.of(learns, state, action)
        self.visits[learns][state, action] += 1
        traces = self.traces[env_index]
        best = max(self.q_value(state, each) for each in range(NUM_ACTIONS))
        cut = self.options["watkins"] and self.q_value(state, action) < best
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


def values(refiner: Refiner | Plain) -> list[list[float]]:
    return [[refiner.q_value(state, a) for a in range(NUM_ACTIONS)] for state in range(NUM_STATES)]


@STORED
def test_reproduces_the_original(golden: Golden, storage: str):
    recorded = golden("refiner")
    refiner = Refiner(epsilon=0.0, storage=storage)
    rows = zip(
        *(recorded[name] for name in ("state", "action", "reward", "next_state")), strict=True
    )
    for row, value in zip(rows, recorded["value_after"], strict=True):
        state, action, reward, next_state = (each.item() for each in row)
        refiner.update(state, action, reward, next_state)
        assert refiner.q_value(state, action) == pytest.approx(value, abs=1e-12)
    greedy = [refiner.greedy_action(state) for state in range(10)]
    assert greedy == recorded["greedy"].tolist()


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS, seed=st.integers(0, 9))
def test_learns_by_the_book(options: dict[str, Any], decisions: list[Decision], seed: int):
    coins = np.random.default_rng(seed).random(len(decisions)).tolist()
    refiner = WithCoins(n_states=NUM_STATES, n_actions=NUM_ACTIONS, **options)
    refiner.coins = iter(coins)
    plain = Plain(iter(coins), options)
    for decision in decisions:
        refiner.update(*decision)
        plain.update(*decision)
    assert values(refiner) == values(plain)


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS)
def test_storages_agree(options: dict[str, Any], decisions: list[Decision]):
    one, other = (make(storage=storage, **options) for storage in STORAGES)
    assert play(one, decisions) == play(other, decisions)
    assert_alike(one.state_dict(), other.state_dict())
    states = np.arange(NUM_STATES)
    assert one.greedy_actions(states).tolist() == other.greedy_actions(states).tolist()


@REPEATABLE
@given(decisions=DECISIONS)
def test_options_that_change_nothing(decisions: list[Decision]):
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
@given(
    options=OPTIONS,
    decisions=DECISIONS,
    at=st.integers(0, 30),
    storages=st.tuples(*[st.sampled_from([*STORAGES])] * 2),
)
def test_what_is_saved_goes_on_alike(
    options: dict[str, Any], decisions: list[Decision], at: int, storages: tuple[str, str]
):
    refiner = make(seed=3, storage=storages[0], **options)
    other = make(seed=4, storage=storages[1], **options)
    play(refiner, decisions[:at])
    play(other, [(5, 3, 100.0, 5, 1)])  # Gone once something else is loaded.
    with tempfile.TemporaryDirectory() as folder:
        refiner.save(Path(folder, "agent"))
        other.load(Path(folder, "agent"))
    assert_alike(refiner.state_dict(), other.state_dict())
    rest = decisions[at:] + decisions
    assert play(refiner, rest) == play(other, rest)
    assert_alike(refiner.state_dict(), other.state_dict())


@REPEATABLE
@given(options=OPTIONS, decisions=DECISIONS)
def test_greedy_actions_are_those_of_one_by_one(options: dict[str, Any], decisions: list[Decision]):
    refiner = make(**options)
    play(refiner, decisions)
    before = refiner.state_dict()
    states = np.arange(NUM_STATES).reshape(2, 3)
    actions = refiner.greedy_actions(states)
    assert actions.dtype == np.int64
    assert actions.ravel().tolist() == [refiner.greedy_action(each) for each in range(NUM_STATES)]
    for row, action in zip(values(refiner), actions.ravel(), strict=True):
        assert row[action] == max(row)
    assert_alike(refiner.state_dict(), before)


@REPEATABLE
@given(puts=st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), max_size=40))
def test_a_row_knows_its_best(puts: list[tuple[int, int]]):
    row = QRow.of([0.0] * 4)
    for action, value in puts:
        row.set(action, float(value))
        assert (row.best, row.greedy) == (max(row), row.index(max(row)))


def test_copies_are_apart():
    for storage in STORAGES:
        refiner = make(storage=storage)
        other = copy.deepcopy(refiner)
        other.update(1, 2, 1.0, 1)
        assert refiner.q_value(1, 2) == 0
        assert other.q_value(0, 2) == 0


def test_explores_at_its_rate():
    refiner = Refiner(epsilon=0.1, seed=0)
    refiner.update(5, 4, 1.0, 0)
    chosen = [refiner.choose_action(5) for _ in range(4000)]
    other = sum(action != 4 for action in chosen) / len(chosen)
    assert other == pytest.approx(0.1 * 0.9, abs=0.015)
    assert set(chosen) == set(range(10))


def test_explores_less_and_less():
    refiner = Refiner(epsilon={"start": 1.0, "end": 0.0, "steps": 400}, seed=0)
    refiner.update(5, 4, 1.0, 0)
    chosen = np.array([refiner.choose_action(5) for _ in range(600)])
    shares = [(part != 4).mean() for part in np.split(chosen, 3)]
    assert shares == pytest.approx([0.9 * 0.75, 0.9 * 0.25, 0.0], abs=0.08)
    assert refiner.epsilon == 0


def test_ties_go_to_the_lowest_action():
    assert Refiner(epsilon=0.0).choose_action(123) == 0


def test_random_ties_are_drawn_and_spread():
    refiner = Refiner(epsilon=0.0, tie_breaking="random", seed=0)
    for action in (0, 3, 7):
        refiner.update(5, action, -1.0, 5)
    chosen = Counter(refiner.choose_action(5) for _ in range(2100))
    assert chosen.keys() == {1, 2, 4, 5, 6, 8, 9}
    assert max(chosen.values()) < 1.25 * min(chosen.values())
    spread = np.bincount(refiner.greedy_actions(np.arange(9999)), minlength=10)
    assert spread.max() < 1.05 * spread.min()


def test_high_initial_values_have_everything_tried():
    refiner = Refiner(epsilon=0.0, initial_q=5.0, gamma=0.0)
    for _ in range(10):
        refiner.update(1, refiner.choose_action(1), 1.0, 1)
    assert len({refiner.q_value(1, action) for action in range(10)}) == 1
    assert refiner.q_value(1, 0) < 5 == refiner.q_value(2, 0)


@REPEATABLE
@given(rewards=st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_by_visits_a_value_is_a_mean(rewards: list[float]):
    refiner = Refiner(alpha=1e-12, gamma=0.0, count_based_lr=True, initial_q=100.0)
    for reward in rewards:
        refiner.update(3, 4, reward, 3)
    assert refiner.q_value(3, 4) == pytest.approx(np.mean(rewards), abs=1e-9)


def test_traces_credit_what_led_here():
    refiner = Refiner(gamma=0.5, lambda_=0.5)
    for state in range(3):
        refiner.update(state, 0, float(state == 2), state + 1, env_index=1)
        refiner.update(9, 0, 0.0, 9, env_index=0)
    values = [refiner.q_value(state, 0) for state in (2, 1, 0, 9)]
    assert values == pytest.approx([0.1, 0.1 / 4, 0.1 / 16, 0.0])


def test_is_a_span_controller():
    assert isinstance(Refiner(), SpanController)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"alpha": 0.0}, "alpha must be in"),
        ({"alpha": LinearSchedule(0.5, 0.0, 10)}, r"alpha must be in \(0, 1\], got 0.0"),
        ({"alpha": "0.5"}, "alpha must be a number or start, end, steps, got '0.5'"),
        ({"gamma": 1.1}, "gamma must be in"),
        ({"epsilon": -0.1}, "epsilon must be in"),
        ({"epsilon": {"start": 1, "end": 2, "steps": 9}}, r"epsilon must be in \[0, 1\], got 2"),
        ({"epsilon": {"start": 1, "end": 0, "step": 9}}, "no field 'step'; did you mean 'steps'"),
        ({"epsilon": {"start": 1, "steps": 9}}, "epsilon lacks end"),
        ({"epsilon": {"start": 1, "end": 0, "steps": 0}}, "epsilon: steps must be a whole number"),
        ({"storage": "list"}, "storage must be 'dict' or 'array'"),
        ({"tie_breaking": "highest"}, "tie_breaking must be 'lowest' or 'random'"),
        ({"initial_q": float("nan")}, "initial_q must be finite"),
        ({"count_based_lr": "yes"}, "count_based_lr must be true or false"),
        ({"double_q": 2}, "double_q must be true or false"),
        ({"lambda_": 1.5}, "lambda_ must be in"),
    ],
)
def test_bad_options_name_the_rule(options: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match=rule):
        Refiner(**options)


@pytest.mark.parametrize("state", [-1, 10])
def test_array_refuses_a_state_beyond_its_size(state: int):
    refiner = Refiner(n_states=10, storage="array")
    with pytest.raises(ValueError, match=rf"state must be in 0\.\.9, got {state}"):
        refiner.update(state, 0, 1.0, 0)
    with pytest.raises(ValueError, match=rf"state must be in 0\.\.9, got {state}"):
        refiner.update(0, 0, 1.0, state)
    assert refiner.q_value(0, 0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"double_q": True}, "'other_states' is missing"),
        ({"count_based_lr": True}, "'visits' is missing"),
        ({"epsilon": LinearSchedule(1.0, 0.1, 9)}, "'counts' is missing"),
        ({"n_actions": 3}, "4 actions are stored, this refiner has 3"),
        ({"n_states": 2, "storage": "array"}, r"state must be in 0\.\.1, got 3"),
    ],
)
def test_what_was_stored_with_other_options_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
):
    refiner, other = make(), make(**options)
    for each in (refiner, other):
        each.update(1, 2, 1.0, 1)
    refiner.update(3, 2, 1.0, 1)
    refiner.save(tmp_path / "agent")
    before = other.state_dict()
    with pytest.raises(ValueError, match=rf"agent\.safetensors is no table.*{message}"):
        other.load(tmp_path / "agent")
    assert_alike(other.state_dict(), before)
    if "other_states" in message:
        with pytest.raises(ValueError, match="'other_states' is not used here"):
            refiner.load_state_dict(before)


@REPEATABLE
@given(
    start=st.floats(-5, 5), end=st.floats(-5, 5), steps=st.integers(1, 50), step=st.integers(0, 99)
)
def test_a_schedule_is_a_line_and_then_stays(start: float, end: float, steps: int, step: int):
    schedule = LinearSchedule(start, end, steps)
    assert schedule(0) == start
    expected = np.interp(step, [0, steps], [start, end])
    assert schedule(step) == pytest.approx(expected, abs=1e-9)
    assert schedule(steps) == schedule(10**9) == end
