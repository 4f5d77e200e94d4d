"""The rows of a Q-table, its values as a mapping, and the eligibility traces of Q(lambda)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

_MIN_TRACE = 1e-4
"""Weight below which a trace is dropped."""


class QRow(list[float]):
    """Action values of one state, with the maximum cached.

    Attributes:
        best: Highest value.
        greedy: Lowest action that has the highest value.
        visits: Number of updates of each value.

    Example:
        >>> row = QRow([0.0, 0.0, 0.0])
        >>> row.set(1, 0.5)
        >>> row, row.best, row.greedy
        ([0.0, 0.5, 0.0], 0.5, 1)
    """

    __slots__ = ("best", "greedy", "visits")

    def __init__(self, values: list[float], visits: list[int] | None = None) -> None:
        super().__init__(values)
        self.best = max(values)
        self.greedy = values.index(self.best)
        self.visits = [0] * len(values) if visits is None else visits

    def copy(self) -> QRow:
        """Return an independent copy."""
        return QRow(self, [*self.visits])

    def set(self, action: int, value: float) -> None:
        """Set the value of one action; only a decrease of the maximum searches the row."""
        self[action] = value
        if value > self.best:
            self.best, self.greedy = value, action
        elif action == self.greedy:
            self.best = max(self)
            self.greedy = self.index(self.best)
        elif value == self.best and action < self.greedy:
            self.greedy = action


QTable = dict[int, QRow]
"""Rows of the states that were updated."""


class QValues(MutableMapping[tuple[int, int], float]):
    """A view of the values of a refiner by (state, action): the original's dict ``R``.

    It contains the values that were updated or set.

    Args:
        tables: The refiner's tables, of which a value is the mean.
        initial: Row of a state without values.

    Example:
        >>> values = QValues([{}], initial=QRow([0.0, 0.0]))
        >>> values[7, 1] = 0.5
        >>> values, values.get((7, 0), 0.0)
        ({(7, 1): 0.5}, 0.0)
    """

    def __init__(self, tables: Sequence[QTable], initial: QRow) -> None:
        self._tables = tables
        self._initial = initial

    def __getitem__(self, key: tuple[int, int]) -> float:
        """Return a value; KeyError if it was neither updated nor set."""
        state, action = key
        rows = [table.get(state, self._initial) for table in self._tables]
        if not 0 <= action < len(self._initial) or not any(row.visits[action] for row in rows):
            raise KeyError(key)
        return sum(row[action] for row in rows) / len(rows)

    def __setitem__(self, key: tuple[int, int], value: float) -> None:
        """Set a value in every table; it counts as updated."""
        state, action = key
        if not 0 <= action < len(self._initial):
            raise ValueError(f"action must be in 0..{len(self._initial) - 1}, got {action}")
        for table in self._tables:
            row = table.setdefault(state, self._initial.copy())
            row.set(action, float(value))
            row.visits[action] = max(1, row.visits[action])

    def __delitem__(self, key: tuple[int, int]) -> None:
        """Reset a value to that of unseen states."""
        _ = self[key]
        state, action = key
        for table in self._tables:
            if (row := table.get(state)) is not None:
                row.set(action, self._initial[action])
                row.visits[action] = 0
                if not any(row.visits):
                    del table[state]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the pairs of states and actions."""
        for state in dict.fromkeys(state for table in self._tables for state in table):
            rows = [table.get(state, self._initial) for table in self._tables]
            for action in range(len(self._initial)):
                if any(row.visits[action] for row in rows):
                    yield state, action

    def __len__(self) -> int:
        """Return the number of values."""
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        """Return the values as a dict."""
        return repr(dict(self))


def table_to_tensors(table: QTable, num_actions: int) -> dict[str, Tensor]:
    """Convert a table to ``states`` (n,), ``values`` and ``visits`` (n, actions).

    Example:
        >>> tensors = table_to_tensors({7: QRow([0.0, 0.5], [0, 1])}, num_actions=2)
        >>> [tensor.tolist() for tensor in tensors.values()]
        [[7], [[0.0, 0.5]], [[0, 1]]]
    """
    rows, shape = dict(sorted(table.items())), (-1, num_actions)
    visits = [row.visits for row in rows.values()]
    return {
        "states": torch.tensor([*rows], dtype=torch.int64),
        "values": torch.tensor([*rows.values()], dtype=torch.float64).reshape(shape),
        "visits": torch.tensor(visits, dtype=torch.int64).reshape(shape),
    }


def table_from_tensors(tensors: Mapping[str, Tensor], prefix: str) -> QTable:
    """Convert the tensors of `table_to_tensors`, each named with a prefix, to a table."""
    columns = (tensors[f"{prefix}{name}"].tolist() for name in ("states", "values", "visits"))
    return {state: QRow(row, visits) for state, row, visits in zip(*columns, strict=True)}


class EligibilityTraces:
    """Replacing traces: weights of the recent decisions of each environment.

    Example:
        >>> traces = EligibilityTraces()
        >>> _ = traces.step(0, state=1, action=4, next_state=2, decay=0.0)
        >>> traces.step(0, state=2, action=5, next_state=3, decay=0.5)
        {(1, 4): 0.5, (2, 5): 1.0}
        >>> traces.step(0, state=9, action=5, next_state=3, decay=0.5)  # 3 was expected, not 9
        {(9, 5): 1.0}
    """

    def __init__(self) -> None:
        self._weights: dict[int, dict[tuple[int, int], float]] = {}
        self._next_states: dict[int, int] = {}

    def step(
        self, env_index: int, state: int, action: int, next_state: int, decay: float
    ) -> Mapping[tuple[int, int], float]:
        """Decay the traces of an environment, add a decision with weight 1, return all weights.

        Traces end if the environment is in another state than its last decision led to.
        """
        continues = self._next_states.get(env_index) == state
        earlier = self._weights[env_index].items() if continues else ()
        weights = {each: old * decay for each, old in earlier if old * decay >= _MIN_TRACE}
        weights[state, action] = 1.0
        self._weights[env_index] = weights
        self._next_states[env_index] = next_state
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """Return next states by environment, and decisions (environment, state, action)."""
        decisions = [
            (env_index, state, action)
            for env_index, weights in self._weights.items()
            for state, action in weights
        ]
        weights = [weight for each in self._weights.values() for weight in each.values()]
        envs = [*self._next_states.items()]
        return {
            "trace_envs": torch.tensor(envs, dtype=torch.int64).reshape(-1, 2),
            "trace_decisions": torch.tensor(decisions, dtype=torch.int64).reshape(-1, 3),
            "trace_weights": torch.tensor(weights, dtype=torch.float64),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the traces that `state_dict` returned."""
        self._next_states = dict(state_dict["trace_envs"].tolist())
        self._weights = {env_index: {} for env_index in self._next_states}
        decisions, weights = state_dict["trace_decisions"], state_dict["trace_weights"]
        for decision, weight in zip(decisions.tolist(), weights.tolist(), strict=True):
            env_index, state, action = decision
            self._weights[env_index][state, action] = weight
