"""What a table knows: values of actions by state, in either storage, and traces of decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

_MIN_TRACE = 1e-4


class QRow(list[float]):
    """Values of all actions in a state, changed by `set` only, with the best of them at hand.

    Attributes:
        best: The highest value.
        greedy: The action that has it, the lowest of several.
        visits: How often each value was updated; None if nobody counts.

    Example:
        >>> row = QRow.of([0.0, 0.0, 0.0])
        >>> row.set(1, 0.5)
        >>> row, row.best, row.greedy
        ([0.0, 0.5, 0.0], 0.5, 1)
    """

    # Without an __init__ rows are made twice as fast.
    __slots__ = ("best", "greedy", "visits")
    best: float
    greedy: int
    visits: list[int] | None

    @classmethod
    def of(cls, values: list[float], visits: list[int] | None = None) -> QRow:
        """A row of so many values, and how often each was updated."""
        row = cls(values)
        row.visits = visits
        row.best = max(row)
        row.greedy = row.index(row.best)
        return row

    def copy(self) -> QRow:
        """A row of its own that starts alike."""
        row = QRow(self)
        row.best = self.best
        row.greedy = self.greedy
        row.visits = self.visits and self.visits.copy()
        return row

    def set(self, action: int, value: float) -> None:
        """Set the value of one action; the best is sought only where it fell."""
        self[action] = value
        if value > self.best:
            self.best = value
            self.greedy = action
        elif action == self.greedy:
            if value < self.best:
                self.best = best = max(self)
                self.greedy = self.index(best)
        elif value == self.best and action < self.greedy:
            self.greedy = action


class QTable(Protocol):
    """Rows of the states that were updated; all others stand at the initial row.

    Attributes:
        initial: What a row begins as.
    """

    initial: QRow

    def get(self, state: int, default: QRow, /) -> QRow:
        """The row of a state; the default if it was never updated."""
        ...

    def add_state(self, state: int) -> QRow:
        """Give a state a row of its own, as the initial one is."""
        ...

    def __setitem__(self, state: int, row: QRow, /) -> None:
        """Give a state a row."""
        ...

    def sorted_rows(self) -> dict[int, QRow]:
        """All rows by state, ascending."""
        ...


class DictQTable(dict[int, QRow]):
    """Rows in a dictionary: any number of states, at the cost of those that were updated."""

    def __init__(self, states: int, initial: QRow) -> None:
        del states  # Any number of states fits.
        super().__init__()
        self.initial = initial

    def add_state(self, state: int) -> QRow:
        """Give a state a row of its own, as the initial one is."""
        row = self[state] = self.initial.copy()
        return row

    def sorted_rows(self) -> dict[int, QRow]:
        """All rows by state, ascending."""
        return dict(sorted(self.items()))


class ArrayQTable:
    """Rows in an array with a place for each state; there are no others."""

    def __init__(self, states: int, initial: QRow) -> None:
        self.initial = initial
        self._rows = [initial] * states

    def get(self, state: int, default: QRow, /) -> QRow:
        """The row of a state; the default if it was never updated."""
        row = self._rows[self._checked(state)]
        return default if row is self.initial else row

    def add_state(self, state: int) -> QRow:
        """Give a state a row of its own, as the initial one is."""
        row = self[state] = self.initial.copy()
        return row

    def __setitem__(self, state: int, row: QRow) -> None:
        self._rows[self._checked(state)] = row

    def sorted_rows(self) -> dict[int, QRow]:
        """All rows by state, ascending."""
        return {state: row for state, row in enumerate(self._rows) if row is not self.initial}

    def _checked(self, state: int) -> int:
        if not 0 <= state < len(self._rows):
            raise ValueError(f"state must be in 0..{len(self._rows) - 1}, got {state}")
        return state


STORAGES: dict[str, Callable[[int, QRow], QTable]] = {"dict": DictQTable, "array": ArrayQTable}
"""Storages by name; each is made for a number of states and the row that they begin with."""


def to_tensors(table: QTable) -> dict[str, Tensor]:
    """A table as tensors.

    Returns:
        ``states`` that were updated, int64 of shape (n,); their ``values``, float64 of shape
        (n, actions); and, if they are counted, their ``visits``, int64 of the same shape.

    Example:
        >>> table = DictQTable(10, QRow.of([0.0, 0.0]))
        >>> table.add_state(7).set(1, 0.5)
        >>> [tensor.tolist() for tensor in to_tensors(table).values()]
        [[7], [[0.0, 0.5]]]
    """
    rows, actions = table.sorted_rows(), len(table.initial)
    tensors = {
        "states": torch.tensor([*rows], dtype=torch.int64),
        "values": torch.tensor([*rows.values()], dtype=torch.float64).reshape(-1, actions),
    }
    if table.initial.visits is not None:
        visits = [row.visits for row in rows.values()]
        tensors["visits"] = torch.tensor(visits, dtype=torch.int64).reshape(-1, actions)
    return tensors


def from_tensors(table: QTable, tensors: Mapping[str, Tensor]) -> QTable:
    """Fill a new table with what `to_tensors` gave of another, and give it back.

    Raises:
        ValueError: It is of another number of actions, or of states that this table has not.
    """
    actions = len(table.initial)
    for name in set(tensors) - {"states"}:
        if (there := tensors[name].shape[-1]) != actions:
            raise ValueError(f"{there} actions are stored, this refiner has {actions}")
    states, values = tensors["states"].tolist(), tensors["values"].tolist()
    visits = tensors["visits"].tolist() if "visits" in tensors else [None] * len(states)
    for state, row, row_visits in zip(states, values, visits, strict=True):
        table[state] = QRow.of(row, row_visits)
    return table


class EligibilityTraces:
    """How far the decisions of each environment led to where the environment is now.

    Example:
        >>> traces = EligibilityTraces()
        >>> _ = traces.step(0, state=1, action=4, next_state=2, decay=0.0)
        >>> traces.step(0, state=2, action=5, next_state=3, decay=0.5)
        {(1, 4): 0.5, (2, 5): 1.0}
        >>> traces.step(0, state=9, action=5, next_state=3, decay=0.5)  # does not go on from 3
        {(9, 5): 1.0}
    """

    def __init__(self) -> None:
        self._weights: dict[int, dict[tuple[int, int], float]] = {}
        self._next_states: dict[int, int] = {}

    def step(
        self, env_index: int, state: int, action: int, next_state: int, decay: float
    ) -> Mapping[tuple[int, int], float]:
        """Go on with an environment's next decision.

        Args:
            env_index: The environment.
            state: State of the decision; where the last did not lead to it, all is forgotten.
            action: The action.
            next_state: State that it led to.
            decay: Share that is left of the weights of earlier decisions; the faintest are dropped.

        Returns:
            Weights of the decisions (state, action): of this one 1, even if it was met before.
        """
        weights: dict[tuple[int, int], float] = {}
        if self._next_states.get(env_index) == state:
            for decision, weight in self._weights[env_index].items():
                if weight * decay >= _MIN_TRACE:
                    weights[decision] = weight * decay
        weights[state, action] = 1.0
        self._weights[env_index] = weights
        self._next_states[env_index] = next_state
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """All weights as tensors.

        Returns:
            ``trace_envs``, int64 of shape (num_envs, 2): environment and the state that it is in;
            ``trace_decisions``, int64 of shape (n, 3): environment, state and action; and their
            ``trace_weights``, float64 of shape (n,).
        """
        decisions = [
            (env_index, state, action, weight)
            for env_index, weights in self._weights.items()
            for (state, action), weight in weights.items()
        ]
        next_states = list(self._next_states.items())
        return {
            "trace_envs": torch.tensor(next_states, dtype=torch.int64).reshape(-1, 2),
            "trace_decisions": torch.tensor(
                [each[:3] for each in decisions], dtype=torch.int64
            ).reshape(-1, 3),
            "trace_weights": torch.tensor([each[3] for each in decisions], dtype=torch.float64),
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> EligibilityTraces:
        """Traces as `state_dict` gave them.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit together.
        """
        traces = cls()
        for env_index, next_state in state_dict["trace_envs"].tolist():
            traces._next_states[env_index] = next_state
            traces._weights[env_index] = {}
        decisions, weights = state_dict["trace_decisions"], state_dict["trace_weights"]
        for (env_index, *decision), weight in zip(
            decisions.tolist(), weights.tolist(), strict=True
        ):
            state, action = decision
            traces._weights[env_index][state, action] = weight
        return traces
