"""The Refiner: epsilon-greedy tabular Q-learning, as in the original, with optional variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.agents.tabular.q_table import (
    EligibilityTraces,
    QRow,
    QTable,
    QValues,
    table_from_tensors,
    table_to_tensors,
)
from spangym.agents.tabular.schedules import LinearSchedule
from spangym.attention.features import MAX_STATES, NUM_STATES
from spangym.attention.geometry import MAX_ACTIONS, NUM_ACTIONS
from spangym.utils.atomic_io import ensure_suffix
from spangym.utils.readable_repr import describe_arguments, short_repr
from spangym.utils.rng import Seed, make_generator, rng_from_tensor, rng_to_tensor
from spangym.utils.scalars import as_bool, as_float, as_int
from spangym.utils.serialization import SUFFIX, load_state, report_damage, save_state

TieBreaking = Literal["lowest", "random"]
"""Choice among several greedy actions."""

Rate = float | LinearSchedule | Mapping[str, Any]
"""A constant, a schedule, or the fields of a schedule."""

_DRAWS = 128
"""Number of uniform numbers taken from the generator at once; single draws are slow."""


class Refiner:
    """Tabular Q-learning, ``Q(s, a) += alpha * (reward + gamma * max Q(s', .) - Q(s, a))``.

    Defaults are the original's: actions are epsilon-greedy and ties go to the lowest action. That
    action turns the local path off, and all actions of an unseen state tie, so a refiner that
    rarely meets a state twice mostly turns the local path off; ``tie_breaking`` and ``initial_q``
    change this. Implements `spangym.attention.SpanController`.

    Args:
        states: Number of states, in 2..1,000,000: layers and environments take state ids modulo
            ``states - 1``. Rows exist only for states that were updated.
        actions: Number of actions, in 2..1000: action ``a`` asks for the fraction
            ``a / (actions - 1)`` of the span.
        alpha: Learning rate, in (0, 1]; a `LinearSchedule` or its fields counts updates.
        gamma: Discount factor, in [0, 1].
        epsilon: Exploration rate, in [0, 1]; a `LinearSchedule` or its fields counts decisions.
        tie_breaking: ``lowest`` action, or uniformly ``random``. With ``random``, `greedy_action`
            uses a hash of the state instead of a draw.
        initial_q: Value of unseen states; a high value makes the refiner try every action.
        count_based_lr: Whether the learning rate is ``max(alpha, 1 / visits)``.
        double_q: Whether to use double Q-learning: two tables, of which one, drawn for each update,
            learns, and the other evaluates its greedy action. Values are means of both.
        lambda_: Trace decay of Q(lambda), in [0, 1]. Traces are replacing, one set per environment.
        watkins: Whether traces end at non-greedy actions (Watkins) or not (naive Q(lambda)).
        seed: Seed, or a generator; system entropy if None.

    Attributes:
        alpha: Current learning rate.
        epsilon: Current exploration rate.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of range.

    Example:
        >>> refiner = Refiner(epsilon=0.0)
        >>> refiner.update(state=7, action=3, reward=1.0, next_state=8)
        >>> refiner.choose_action(7), refiner.get_value(7, 3), refiner.choose_action(8)
        (3, 0.1, 0)
        >>> refiner.R
        {(7, 3): 0.1}
    """

    def __init__(
        self,
        states: int = NUM_STATES,
        actions: int = NUM_ACTIONS,
        alpha: Rate = 0.1,
        gamma: float = 0.9,
        epsilon: Rate = 0.1,
        tie_breaking: TieBreaking = "lowest",
        initial_q: float = 0.0,
        count_based_lr: bool = False,
        double_q: bool = False,
        lambda_: float = 0.0,
        watkins: bool = True,
        seed: Seed = None,
    ) -> None:
        self.states = as_int("states", states, 2, MAX_STATES)
        self.actions = as_int("actions", actions, 2, MAX_ACTIONS)
        gamma, lambda_ = as_float("gamma", gamma, 0, 1), as_float("lambda_", lambda_, 0, 1)
        initial_q, double_q = as_float("initial_q", initial_q), as_bool("double_q", double_q)
        count_based_lr = as_bool("count_based_lr", count_based_lr)
        watkins = as_bool("watkins", watkins)
        alphas = LinearSchedule.from_config("alpha", alpha)
        epsilons = LinearSchedule.from_config("epsilon", epsilon)
        ties_are_known = tie_breaking in get_args(TieBreaking)
        for holds, name, rule, value in (
            (0 < alphas.start <= 1, "alpha", "in (0, 1]", alphas.start),
            (0 < alphas.end <= 1, "alpha", "in (0, 1]", alphas.end),
            (0 <= epsilons.start <= 1, "epsilon", "in [0, 1]", epsilons.start),
            (0 <= epsilons.end <= 1, "epsilon", "in [0, 1]", epsilons.end),
            (ties_are_known, "tie_breaking", "'lowest' or 'random'", tie_breaking),
        ):
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {short_repr(value)}")
        self.alpha = alphas.start
        self.gamma = gamma
        self.epsilon = epsilons.start
        self.double_q = double_q
        self.lambda_ = lambda_
        self.watkins = watkins
        self.tie_breaking = tie_breaking
        self.initial_q = initial_q
        self._random_ties = tie_breaking == "random"
        self._alpha_schedule = None if alphas.is_constant else alphas
        self._epsilon_schedule = None if epsilons.is_constant else epsilons
        self._decisions = self._updates = 0
        # States without a row of their own have this one.
        self._initial = QRow([initial_q] * self.actions)
        self._count_based_lr = count_based_lr
        self._table: QTable = {}
        self._second_table: QTable = {}
        self._traces = EligibilityTraces() if lambda_ else None
        self._generator = make_generator(seed)
        self._draws: list[float] = []

    def __repr__(self) -> str:
        tables = (self._table, self._second_table)
        num_states = len({state for table in tables for state in table})
        updates = sum(sum(row.visits) for table in tables for row in table.values())
        options = ", ".join(describe_arguments(self))
        return f"<{type(self).__name__}({options}), known states: {num_states}, updates: {updates}>"

    def choose_action(self, state: int) -> int:
        """Choose a random action with probability epsilon, else a greedy one."""
        if self._draw() < self.epsilon:
            action = int(self._draw() * self.actions)
        elif self._random_ties:
            best = self._best_actions(state)
            action = best[int(self._draw() * len(best))]
        else:
            action = self.greedy_action(state)
        if self._epsilon_schedule:
            self._decisions += 1
            self.epsilon = self._epsilon_schedule(self._decisions)
        return action

    def greedy_action(self, state: int) -> int:
        """Return an action of highest value, always the same for the same values."""
        if self._random_ties:
            best = self._best_actions(state)
            return best[_hash(state) % len(best)]
        if self.double_q:
            return self._best_actions(state)[0]
        return self._table.get(state, self._initial).greedy

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int = 0
    ) -> None:
        """Move Q(state, action) towards the reward plus the discounted value of the next state.

        Traces are kept separately for each ``env_index``.
        """
        if self.double_q:
            table, next_value = self._double_q_bootstrap(next_state)
        else:
            table, next_value = self._table, self._table.get(next_state, self._initial).best
        row = table.get(state) or self._add_row(table, state)
        td_error = reward + self.gamma * next_value - row[action]
        row.visits[action] += 1
        if self._traces is None:
            rate = self._learning_rate(row, action) if self._count_based_lr else self.alpha
            row.set(action, row[action] + rate * td_error)
        else:
            is_greedy = not self.watkins or action in self._best_actions(state)
            decay = self.gamma * self.lambda_ if is_greedy else 0.0
            weights = self._traces.step(env_index, state, action, next_state, decay)
            for (past_state, past_action), weight in weights.items():
                row = table.get(past_state) or self._add_row(table, past_state)
                rate = self._learning_rate(row, past_action)
                row.set(past_action, row[past_action] + rate * (weight * td_error))
        if self._alpha_schedule:
            self._updates += 1
            self.alpha = self._alpha_schedule(self._updates)

    def _double_q_bootstrap(self, next_state: int) -> tuple[QTable, float]:
        learning, evaluating = self._table, self._second_table
        if self._draw() < 0.5:
            learning, evaluating = evaluating, learning
        greedy = learning.get(next_state, self._initial).greedy
        return learning, evaluating.get(next_state, self._initial)[greedy]

    def _learning_rate(self, row: QRow, action: int) -> float:
        if not self._count_based_lr:
            return self.alpha
        # With double Q-learning a trace may reach a value that only the other table has updated.
        return max(self.alpha, 1 / max(1, row.visits[action]))

    def _add_row(self, table: QTable, state: int) -> QRow:
        row = table[state] = self._initial.copy()
        return row

    def _best_actions(self, state: int) -> list[int]:
        values = self._q_values(state)
        best = max(values)
        return [action for action, value in enumerate(values) if value == best]

    def _q_values(self, state: int) -> list[float]:
        values = self._table.get(state, self._initial)
        if not self.double_q:
            return values
        second_values = self._second_table.get(state, self._initial)
        return [(first + second) / 2 for first, second in zip(values, second_values, strict=True)]

    def _draw(self) -> float:
        if not self._draws:
            self._draws = self._generator.random(_DRAWS).tolist()
        return self._draws.pop()

    @property
    def R(self) -> QValues:  # noqa: N802  (the original's name)
        """The values that were updated or set, by (state, action); a view that can be changed."""
        tables = (self._table, self._second_table) if self.double_q else (self._table,)
        return QValues(tables, self._initial)

    def get_value(self, state: int, action: int) -> float:
        """Return the value of an action in a state; ``initial_q`` if it was never updated."""
        return self._q_values(state)[action]

    def set_value(self, state: int, action: int, value: float) -> None:
        """Set the value of an action in a state."""
        self.R[state, action] = value

    def greedy_actions(self, states: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return `greedy_action` of each state, in the same shape.

        Example:
            >>> Refiner(tie_breaking="random").greedy_actions(np.arange(8))
            array([0, 3, 0, 4, 1, 9, 2, 0])
        """
        actions = [self.greedy_action(state) for state in states.ravel().tolist()]
        return np.array(actions, np.int64).reshape(states.shape)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning changes; a layer stores it with its own state dict.

        Returns:
            ``sizes``, the numbers of states and actions; ``states``, int64 (n,), of the table;
            their ``values``, float64, and ``visits``, int64 (n, actions); the ``generator`` state,
            uint8; and, where in use: ``second_states``, ``second_values``, ``second_visits`` of
            the second table; ``counts`` of decisions and updates; unused ``draws``; the tensors of
            `EligibilityTraces.state_dict`.
        """
        tensors = {
            "sizes": torch.tensor([self.states, self.actions]),
            "generator": rng_to_tensor(self._generator),
            **table_to_tensors(self._table, self.actions),
        }
        if self.double_q:
            second = table_to_tensors(self._second_table, self.actions)
            tensors |= {f"second_{name}": tensor for name, tensor in second.items()}
        if self._alpha_schedule or self._epsilon_schedule:
            tensors["counts"] = torch.tensor([self._decisions, self._updates])
        if self._traces:
            tensors |= self._traces.state_dict()
        if self._draws:
            tensors["draws"] = torch.tensor(self._draws, dtype=torch.float64)
        return tensors

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: The state is of a refiner with other options; nothing has changed then.
        """
        stored, expected = ({*each} - {"draws"} for each in (state_dict, self.state_dict()))
        problems = [f"{name!r} is missing" for name in sorted(expected - stored)]
        problems += [f"{name!r} is not used here" for name in sorted(stored - expected)]
        if problems:
            raise ValueError(f"it was stored with other options: {', '.join(problems)}")
        for name, stored, own in zip(
            ("states", "actions"),
            state_dict["sizes"].tolist(),
            (self.states, self.actions),
            strict=True,
        ):
            if stored != own:
                raise ValueError(f"{stored} {name} are stored, this refiner has {own}")
        tables = {"": self._table} | ({"second_": self._second_table} if self.double_q else {})
        loaded = {prefix: table_from_tensors(state_dict, prefix) for prefix in tables}
        for prefix, table in tables.items():
            table.clear()
            table.update(loaded[prefix])
        if self._traces:
            self._traces.load_state_dict(state_dict)
        if "counts" in state_dict:
            self._decisions, self._updates = state_dict["counts"].tolist()
        if self._alpha_schedule:
            self.alpha = self._alpha_schedule(self._updates)
        if self._epsilon_schedule:
            self.epsilon = self._epsilon_schedule(self._decisions)
        rng_from_tensor(self._generator, state_dict["generator"])
        self._draws = state_dict["draws"].tolist() if "draws" in state_dict else []

    def save(self, path: Path | str) -> None:
        """Write `state_dict` to ``path`` with the suffix ``.safetensors``."""
        save_state(ensure_suffix(path, SUFFIX), self.state_dict())

    def load(self, path: Path | str) -> None:
        """Restore the state that `save` wrote.

        Raises:
            ValueError: The file is not of a refiner with these options; the message names it.
        """
        path = ensure_suffix(path, SUFFIX)
        state = load_state(path)
        with report_damage(f"{path} does not fit this refiner", path):
            self.load_state_dict(state)


def _hash(state: int) -> int:
    """Return Knuth's multiplicative hash of a state: the same number on every platform."""
    return (state * 2654435761 & 0xFFFFFFFF) >> 16
