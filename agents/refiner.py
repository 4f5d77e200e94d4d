"""The original agent: tabular Q-learning over state ids."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import with_ending, written_whole


class ValueTable(Protocol):
    """Values of (state, action); 0 where nothing was stored."""

    def row(self, state: int) -> list[float]:
        """Values of all actions in a state."""
        ...

    def store(self, state: int, action: int, value: float) -> None:
        """Set one value."""
        ...

    def stored(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """States that hold a value, ascending, shape (n,), and their rows, shape (n, actions)."""
        ...


class DictTable:
    """A row for each state that was ever updated: costs what the visited states need."""

    def __init__(self, states: int, actions: int) -> None:
        del states  # Any number of states fits.
        self._nothing = [0.0] * actions
        self._rows: dict[int, list[float]] = {}

    def row(self, state: int) -> list[float]:
        """Values of all actions in a state."""
        return self._rows.get(state, self._nothing)

    def store(self, state: int, action: int, value: float) -> None:
        """Set one value."""
        self._rows.setdefault(state, self._nothing.copy())[action] = value

    def stored(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """States that hold a value, ascending, and their rows."""
        states = sorted(self._rows)
        rows = [self._rows[state] for state in states]
        return np.array(states, np.int64), np.array(rows).reshape(-1, len(self._nothing))


class ArrayTable:
    """A dense array of shape (states, actions), float64."""

    def __init__(self, states: int, actions: int) -> None:
        self._values = np.zeros((states, actions))

    def row(self, state: int) -> list[float]:
        """Values of all actions in a state."""
        return self._values[self._checked(state)].tolist()

    def store(self, state: int, action: int, value: float) -> None:
        """Set one value."""
        self._values[self._checked(state), action] = value

    def stored(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """States that hold a value other than 0, ascending, and their rows."""
        states = np.flatnonzero(self._values.any(1)).astype(np.int64)
        return states, self._values[states]

    def _checked(self, state: int) -> int:
        if not 0 <= state < len(self._values):
            raise ValueError(f"state must be in 0..{len(self._values) - 1}, got {state}")
        return state


STORAGES: dict[str, Callable[[int, int], ValueTable]] = {"dict": DictTable, "array": ArrayTable}
"""Storages by name; each is made for a number of states and of actions."""


class Refiner:
    """Tabular Q-learning, with the original's defaults.

    ``Q(s, a) += alpha * (reward + gamma * max Q(s', ·) - Q(s, a))``; actions are epsilon-greedy,
    and ties go to the lowest action. Since that action turns the local path off, and unseen states
    are all ties, a refiner that rarely meets a state twice mostly leaves the local path off. It is
    a `spangym.attention.SpanController`.

    Args:
        states: Number of states, of which ids are below; only the array storage needs it.
        actions: Number of actions.
        alpha: Learning rate, in (0, 1].
        gamma: Discount, in [0, 1].
        epsilon: Share of random actions, in [0, 1].
        storage: ``dict`` (a row for each state met) or ``array`` (dense).
        seed: Seed of the exploration, or a generator for it; entropy of the system if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> refiner = Refiner(epsilon=0.0)
        >>> refiner.update(state=7, action=3, reward=1.0, next_state=8)
        >>> refiner.choose_action(7), refiner.value(7, 3), refiner.choose_action(8)
        (3, 0.1, 0)
    """

    def __init__(
        self,
        states: int = 10_000,
        actions: int = 10,
        alpha: float = 0.1,
        gamma: float = 0.9,
        epsilon: float = 0.1,
        storage: str = "dict",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        rules = [
            (states >= 1, f"states must be at least 1, got {states}"),
            (actions >= 1, f"actions must be at least 1, got {actions}"),
            (0 < alpha <= 1, f"alpha must be in (0, 1], got {alpha}"),
            (0 <= gamma <= 1, f"gamma must be in [0, 1], got {gamma}"),
            (0 <= epsilon <= 1, f"epsilon must be in [0, 1], got {epsilon}"),
            (storage in STORAGES, f"storage must be 'dict' or 'array', got {storage!r}"),
        ]
        for holds, message in rules:
            if not holds:
                raise ValueError(message)
        self.actions = actions
        self.alpha = alpha
        self.gamma = gamma
        self.epsilon = epsilon
        self._new_table = functools.partial(STORAGES[storage], states, actions)
        self._table = self._new_table()
        self._generator = np.random.default_rng(seed)

    def choose_action(self, state: int) -> int:
        """A random action with probability epsilon, else the greedy one."""
        if self._generator.random() < self.epsilon:
            return int(self._generator.integers(self.actions))
        return self.greedy_action(state)

    def greedy_action(self, state: int) -> int:
        """The action of highest value, the lowest of several."""
        row = self._table.row(state)
        return row.index(max(row))

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Move the value of one decision towards its reward and the best that can follow."""
        value = self.value(state, action)
        target = reward + self.gamma * max(self._table.row(next_state))
        self._table.store(state, action, value + self.alpha * (target - value))

    def value(self, state: int, action: int) -> float:
        """Value of an action in a state; 0 if never updated."""
        return self._table.row(state)[action]

    def state_dict(self) -> dict[str, Tensor]:
        """All that was learnt and the exploration's state, as tensors.

        A layer saves it with its own (`spangym.attention.StoredController`).

        Returns:
            ``states`` that hold a value, int64 of shape (n,); their ``values``, float64 of shape
            (n, actions); and the ``generator``'s state, the bytes of a JSON text.
        """
        states, values = self._table.stored()
        generator = json.dumps(self._generator.bit_generator.state).encode()
        return {
            "states": torch.from_numpy(states),
            "values": torch.from_numpy(values.copy()),
            "generator": torch.frombuffer(bytearray(generator), dtype=torch.uint8),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Put what `state_dict` gave in place of what was learnt here.

        Raises:
            KeyError: Something is missing.
            ValueError: The table has another number of actions, or states that this one has not.
        """
        states, values = state_dict["states"].tolist(), state_dict["values"]
        if values.shape[-1] != self.actions:
            raise ValueError(
                f"{values.shape[-1]} actions are stored, this refiner has {self.actions}"
            )
        generator = json.loads(bytes(state_dict["generator"].tolist()))
        table = self._new_table()
        for state, row in zip(states, values.tolist(), strict=True):
            for action, value in enumerate(row):
                table.store(state, action, value)
        self._generator.bit_generator.state = generator
        self._table = table

    def save(self, path: Path | str) -> None:
        """Write the table and the exploration's state to ``path`` with the ending ``.npz``."""
        arrays: dict[str, Any] = {
            each: tensor.numpy() for each, tensor in self.state_dict().items()
        }
        with written_whole(with_ending(path, ".npz")) as aside:
            np.savez_compressed(aside, **arrays)

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learnt here; needs no pickle.

        Raises:
            ValueError: The stored table does not fit this one; the message names the file.
        """
        path = with_ending(path, ".npz")
        with np.load(path, allow_pickle=False) as stored:
            tensors = {name: torch.from_numpy(stored[name]) for name in stored.files}
        try:
            self.load_state_dict(tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no table of this refiner's: {error}") from error
