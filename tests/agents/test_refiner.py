import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spangym.agents import Refiner
from spangym.agents.refiner import STORAGES
from spangym.attention import SpanController

from ..conftest import Golden

STORED = pytest.mark.parametrize("storage", STORAGES)

UPDATES = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 9), st.floats(-5, 5, allow_nan=False), st.integers(0, 9)
    ),
    max_size=60,
)


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
        assert refiner.value(state, action) == pytest.approx(value, abs=1e-12)
    greedy = [refiner.greedy_action(state) for state in range(10)]
    assert greedy == recorded["greedy"].tolist()


@given(updates=UPDATES)
def test_storages_agree(updates: list[tuple[int, int, float, int]]):
    refiners = [Refiner(seed=1, storage=storage) for storage in STORAGES]
    for update in updates:
        for refiner in refiners:
            refiner.update(*update)
    one, other = refiners
    for state in range(10):
        assert [one.value(state, a) for a in range(10)] == [
            other.value(state, a) for a in range(10)
        ]
        assert one.choose_action(state) == other.choose_action(state)


@STORED
@given(updates=UPDATES)
def test_what_is_saved_goes_on_alike(storage: str, updates: list[tuple[int, int, float, int]]):
    refiner, other = Refiner(seed=3, storage=storage), Refiner(seed=4, storage=storage)
    for update in updates:
        refiner.update(*update)
        refiner.choose_action(update[0])
    other.update(9, 9, 100.0, 9)  # Gone once something else is loaded.
    with tempfile.TemporaryDirectory() as folder:
        refiner.save(Path(folder, "agent"))
        other.load(Path(folder, "agent"))
    choices = [[each.choose_action(state % 10) for state in range(50)] for each in (refiner, other)]
    assert choices[0] == choices[1]
    for state in range(10):
        for action in range(10):
            assert refiner.value(state, action) == other.value(state, action)


def test_explores_at_its_rate():
    refiner = Refiner(epsilon=0.1, seed=0)
    refiner.update(5, 4, 1.0, 0)
    chosen = [refiner.choose_action(5) for _ in range(4000)]
    other = sum(action != 4 for action in chosen) / len(chosen)
    assert other == pytest.approx(0.1 * 0.9, abs=0.015)


def test_ties_go_to_the_lowest_action():
    assert Refiner(epsilon=0.0).choose_action(123) == 0


def test_is_a_span_controller():
    assert isinstance(Refiner(), SpanController)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"alpha": 0.0}, "alpha must be in"),
        ({"gamma": 1.1}, "gamma must be in"),
        ({"epsilon": -0.1}, "epsilon must be in"),
        ({"storage": "list"}, "storage must be 'dict' or 'array'"),
    ],
)
def test_bad_options_name_the_rule(options: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match=rule):
        Refiner(**options)


def test_array_refuses_a_state_beyond_its_size():
    with pytest.raises(ValueError, match=r"state must be in 0\.\.9, got 10"):
        Refiner(states=10, storage="array").update(10, 0, 1.0, 0)
