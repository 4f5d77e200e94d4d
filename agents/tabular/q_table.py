"""The rows of a Q-table, and the eligibility traces of Q(lambda)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_MIN_TRACE = 1e-4
"""Weight below which a trace is dropped."""


class QRow(list[float]):
    """Action values of one state, with the maximum cached.

    Attributes:
        best: Highest value.
        greedy: Lowest action that has the highest value.
        visits: Number of updates of each value; None if updates are not counted.

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
        self.visits = visits

    def copy(self) -> QRow:
        """Return an independent copy."""
        return QRow(self, None if self.visits is None else [*self.visits])

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


def table_to_tensors(table: QTable, initial: QRow) -> dict[str, Tensor]:
    """Convert a table to ``states`` (n,), ``values`` and, if counted, ``visits`` (n, actions).

    Example:
        >>> tensors = table_to_tensors({7: QRow([0.0, 0.5])}, initial=QRow([0.0, 0.0]))
        >>> [tensor.tolist() for tensor in tensors.values()]
        [[7], [[0.0, 0.5]]]
    """
    rows, shape = dict(sorted(table.items())), (-1, len(initial))
    tensors = {
        "states": torch.tensor([*rows], dtype=torch.int64),
        "values": torch.tensor([*rows.values()], dtype=torch.float64).reshape(shape),
    }
    if initial.visits is not None:
        visits = [row.visits for row in rows.values()]
        tensors["visits"] = torch.tensor(visits, dtype=torch.int64).reshape(shape)
    return tensors


def table_from_tensors(tensors: Mapping[str, Tensor], prefix: str, initial: QRow) -> QTable:
    """Convert the tensors of `table_to_tensors`, each named with a prefix, to a table."""
    states, values = tensors[f"{prefix}states"].tolist(), tensors[f"{prefix}values"]
    if values.shape[-1] != len(initial):
        raise ValueError(f"{values.shape[-1]} actions are stored, this refiner has {len(initial)}")
    if initial.visits is None:
        return {state: QRow(row) for state, row in zip(states, values.tolist(), strict=True)}
    rows = zip(states, values.tolist(), tensors[f"{prefix}visits"].tolist(), strict=True)
    return {state: QRow(row, visits) for state, row, visits in rows}


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
