"""The original agent: tabular Q-learning over state ids, and what became of it since."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.agents.tabular.q_table import (
    STORAGES,
    EligibilityTraces,
    QRow,
    QTable,
    from_tensors,
    to_tensors,
)
from spangym.agents.tabular.schedules import LinearSchedule
from spangym.utils.atomic_io import ensure_suffix
from spangym.utils.rng import rng_from_tensor, rng_to_tensor
from spangym.utils.serialization import SUFFIX, load_state, save_state

TieBreaking = Literal["lowest", "random"]
"""Which of several best actions is chosen."""

Rate = float | LinearSchedule | Mapping[str, Any]
"""A number, a schedule, or a schedule's fields."""

_DRAWS = 128


class Refiner:
    """Tabular Q-learning, with the original's defaults.

    ``Q(s, a) += alpha * (reward + gamma * max Q(s', ·) - Q(s, a))``; actions are epsilon-greedy,
    and ties go to the lowest action. Since that action turns the local path off, and unseen states
    are all ties, a refiner that rarely meets a state twice mostly leaves the local path off;
    ``tie_breaking`` and ``initial_q`` change that. It is a `spangym.attention.SpanController`.

    Args:
        n_states: Number of states, of which ids are below; only the array storage needs it.
        n_actions: Number of actions.
        alpha: Learning rate, in (0, 1]; a `LinearSchedule` schedule, or its fields, counts updates.
        gamma: Discount, in [0, 1].
        epsilon: Share of random actions, in [0, 1]; a `LinearSchedule` schedule, or its fields, counts
            calls of `choose_action`.
        storage: ``dict`` (a row for each state met) or ``array`` (a place for each state).
        tie_breaking: ``lowest``, or ``random``: any of the best. `greedy_action` then spreads them over
            the states in a fixed way.
        initial_q: Value of what was never updated; a high one has everything tried.
        count_based_lr: Whether the learning rate of a value is at least one by how often it was updated,
            so that the value is the mean of what it was updated towards until alpha takes over.
        double_q: Whether there are two tables, of which each update picks one at even odds to learn,
            the other judging its best action (double Q-learning). Values are means of both.
        lambda_: Lambda of Q(lambda), in [0, 1]: a decision is credited with what follows it, by
            ``gamma * lambda_`` less each step. Traces replace, and are kept for each environment.
        watkins: Whether traces end where an action was not greedy (Watkins), or not (naive
            Q(lambda): it learns what follows while exploring, and from every decision).
        seed: Seed of all draws, or a generator for them, which are taken from it in blocks;
            entropy of the system if None.

    Attributes:
        alpha: The learning rate as it is now.
        epsilon: The share of random actions as it is now.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> refiner = Refiner(epsilon=0.0)
        >>> refiner.update(state=7, action=3, reward=1.0, next_state=8)
        >>> refiner.choose_action(7), refiner.q_value(7, 3), refiner.choose_action(8)
        (3, 0.1, 0)
    """

    def __init__(
        self,
        n_states: int = 10_000,
        n_actions: int = 10,
        alpha: Rate = 0.1,
        gamma: float = 0.9,
        epsilon: Rate = 0.1,
        storage: str = "dict",
        tie_breaking: TieBreaking = "lowest",
        initial_q: float = 0.0,
        count_based_lr: bool = False,
        double_q: bool = False,
        lambda_: float = 0.0,
        watkins: bool = True,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        alphas, epsilons = (
            LinearSchedule.from_config("alpha", alpha),
            LinearSchedule.from_config("epsilon", epsilon),
        )
        rules = [
            (n_states >= 1, f"n_states must be at least 1, got {n_states}"),
            (n_actions >= 1, f"n_actions must be at least 1, got {n_actions}"),
            *((0 < each <= 1, f"alpha must be in (0, 1], got {each}") for each in alphas.bounds),
            (0 <= gamma <= 1, f"gamma must be in [0, 1], got {gamma}"),
            *(
                (0 <= each <= 1, f"epsilon must be in [0, 1], got {each}")
                for each in epsilons.bounds
            ),
            (storage in STORAGES, f"storage must be 'dict' or 'array', got {storage!r}"),
            (
                tie_breaking in get_args(TieBreaking),
                f"tie_breaking must be 'lowest' or 'random', got {tie_breaking!r}",
            ),
            (math.isfinite(initial_q), f"initial_q must be finite, got {initial_q}"),
            (
                count_based_lr in (True, False),
                f"count_based_lr must be true or false, got {count_based_lr!r}",
            ),
            (double_q in (True, False), f"double_q must be true or false, got {double_q!r}"),
            (0 <= lambda_ <= 1, f"lambda_ must be in [0, 1], got {lambda_}"),
            (watkins in (True, False), f"watkins must be true or false, got {watkins!r}"),
        ]
        for holds, message in rules:
            if not holds:
                raise ValueError(message)
        self.n_actions = n_actions
        self.alpha, self._alphas = alphas.start, None if alphas.is_constant else alphas
        self.gamma = gamma
        self.epsilon, self._epsilons = epsilons.start, None if epsilons.is_constant else epsilons
        self.lambda_ = lambda_
        self.watkins = watkins
        self._random_ties = tie_breaking == "random"
        self._double_q = double_q
        self._cached_argmax = tie_breaking == "lowest" and not double_q
        self._initial = QRow.of(
            [initial_q] * n_actions, [0] * n_actions if count_based_lr else None
        )
        self._new_table = functools.partial(STORAGES[storage], n_states, self._initial)
        self._table = self._new_table()
        # A single table is judged by itself.
        self._other = self._new_table() if double_q else self._table
        self._traces = EligibilityTraces() if lambda_ else None
        self._decisions = self._updates = 0
        self._generator = np.random.default_rng(seed)
        self._draws: list[float] = []

    def choose_action(self, state: int) -> int:
        """A random action with probability epsilon, else a greedy one."""
        if (self._draws or self._refilled()).pop() < self.epsilon:
            action = int(self._draw() * self.n_actions)
        elif self._cached_argmax:
            action = self._table.get(state, self._initial).greedy
        else:
            best = self._best_actions(state)
            action = best[int(self._draw() * len(best)) if self._random_ties else 0]
        if self._epsilons:
            self._decisions += 1
            self.epsilon = self._epsilons(self._decisions)
        return action

    def greedy_action(self, state: int) -> int:
        """The action of highest value; of several the one that ``tie_breaking`` says, always the same."""
        if self._cached_argmax:
            return self._table.get(state, self._initial).greedy
        best = self._best_actions(state)
        return best[_hash_tie_break(state) % len(best) if self._random_ties else 0]

    def greedy_actions(self, states: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """`greedy_action` of each of many states, of the same shape.

        Example:
            >>> Refiner(tie_breaking="random").greedy_actions(np.arange(8))
            array([0, 3, 0, 4, 1, 9, 2, 0])
        """
        actions = [self.greedy_action(state) for state in states.ravel().tolist()]
        return np.array(actions, np.int64).reshape(states.shape)

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int = 0
    ) -> None:
        """Move the value of one decision towards its reward and the best that can follow.

        Args:
            state: State of the decision.
            action: The action.
            reward: What it earned.
            next_state: State that it led to.
            env_index: Which of several streams of decisions it belongs to; only traces need it.
        """
        if self._double_q:
            learns, best = self._double_q_target(next_state)
        else:
            learns = self._table
            best = learns.get(next_state, self._initial).best
        row = learns.get(state, self._initial)
        if row is self._initial:
            row = learns.add_state(state)
        value = row[action]
        error = reward + self.gamma * best - value
        if row.visits is not None:
            row.visits[action] += 1
        if self._traces is None:
            rate = self.alpha if row.visits is None else self._rate(row, action)
            row.set(action, value + rate * error)
        else:
            cut = self.watkins and action not in self._best_actions(state)
            decay = 0.0 if cut else self.gamma * self.lambda_
            weights = self._traces.step(env_index, state, action, next_state, decay)
            for decision, weight in weights.items():
                self._apply_td_error(learns, *decision, weight * error)
        if self._alphas:
            self._updates += 1
            self.alpha = self._alphas(self._updates)

    def q_value(self, state: int, action: int) -> float:
        """Value of an action in a state; ``initial_q`` if never updated."""
        return self._q_values(state)[action]

    def state_dict(self) -> dict[str, Tensor]:
        """All that a training needs to go on to the bit, as tensors.

        A layer saves it with its own (`spangym.attention.StatefulController`).

        Returns:
            ``states`` that were updated, int64 of shape (n,); their ``values``, float64 of shape
            (n, actions); and the ``generator``'s state, the bytes of a JSON text. Where they are
            used: ``visits`` of the values; ``other_states``, ``other_values``, ``other_visits`` of
            the second table; ``counts`` of decisions and updates; what `EligibilityTraces.state_dict` gives;
            ``draws`` that were taken from the generator and not used yet.
        """
        tensors = {"generator": rng_to_tensor(self._generator), **to_tensors(self._table)}
        if self._double_q:
            tensors |= {f"other_{name}": tensor for name, tensor in to_tensors(self._other).items()}
        if self._alphas or self._epsilons:
            tensors["counts"] = torch.tensor([self._decisions, self._updates])
        if self._traces:
            tensors |= self._traces.state_dict()
        if self._draws:
            tensors["draws"] = torch.tensor(self._draws, dtype=torch.float64)
        return tensors

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Put what `state_dict` gave in place of what was learned here.

        Raises:
            ValueError: It is of a refiner with other options or another number of actions, or
                holds states that this one has not.
        """
        draws = state_dict["draws"].tolist() if "draws" in state_dict else []
        _check_names(set(state_dict) - {"draws"}, set(self.state_dict()) - {"draws"})
        tables = [
            from_tensors(
                self._new_table(), {name: state_dict[prefix + name] for name in to_tensors(table)}
            )
            for prefix, table in (("", self._table), ("other_", self._other))
            if prefix + "states" in state_dict
        ]
        traces = EligibilityTraces.from_state_dict(state_dict) if self._traces else None
        rng_from_tensor(self._generator, state_dict["generator"])
        self._table, self._other = tables[0], tables[-1]
        self._traces, self._draws = traces, draws
        if "counts" in state_dict:
            self._decisions, self._updates = state_dict["counts"].tolist()
        if self._alphas:
            self.alpha = self._alphas(self._updates)
        if self._epsilons:
            self.epsilon = self._epsilons(self._decisions)

    def save(self, path: Path | str) -> None:
        """Write `state_dict` to ``path`` with the ending ``.safetensors``."""
        save_state(ensure_suffix(path, SUFFIX), self.state_dict())

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learned here; needs no pickle.

        Raises:
            ValueError: The stored table does not fit this one; the message names the file.
        """
        path = ensure_suffix(path, SUFFIX)
        tensors = load_state(path)
        try:
            self.load_state_dict(tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no table of this refiner's: {error}") from error

    def _refilled(self) -> list[float]:
        """New draws, of which `pop` takes one."""
        self._draws = self._generator.random(_DRAWS).tolist()
        return self._draws

    def _draw(self) -> float:
        """A number in [0, 1)."""
        return (self._draws or self._refilled()).pop()

    def _q_values(self, state: int) -> list[float]:
        """Values of all actions in a state: of two tables, their means."""
        values = self._table.get(state, self._initial)
        if not self._double_q:
            return values
        pairs = zip(values, self._other.get(state, self._initial), strict=True)
        return [(one + other) / 2 for one, other in pairs]

    def _best_actions(self, state: int) -> list[int]:
        """The actions of highest value, ascending."""
        values = self._q_values(state)
        best = max(values)
        return [action for action, value in enumerate(values) if value == best]

    def _double_q_target(self, state: int) -> tuple[QTable, float]:
        """The table that learns, and what the other one thinks of its best action in a state."""
        learns, judges = self._table, self._other
        if self._draw() < 0.5:
            learns, judges = judges, learns
        greedy = learns.get(state, self._initial).greedy
        return learns, judges.get(state, self._initial)[greedy]

    def _apply_td_error(self, table: QTable, state: int, action: int, error: float) -> None:
        """Move a value by its learning rate's share of an error."""
        row = table.get(state, self._initial)
        if row is self._initial:
            row = table.add_state(state)
        row.set(action, row[action] + self._rate(row, action) * error)

    def _rate(self, row: QRow, action: int) -> float:
        """The learning rate of one value."""
        if row.visits is None:
            return self.alpha
        # A trace may lead to a value that only the other table has updated.
        return max(self.alpha, 1 / max(1, row.visits[action]))


def _hash_tie_break(state: int) -> int:
    """A whole number that looks random but is always the same for a state.

    It is Knuth's multiplicative hash, as it needs nothing but 64-bit integers anywhere.
    """
    return (state * 2654435761 & 0xFFFFFFFF) >> 16


def _check_names(given: set[str], needed: set[str]) -> None:
    """Refuse what a refiner of other options stored."""
    wrong = [f"{name!r} is missing" for name in sorted(needed - given)]
    wrong += [f"{name!r} is not used here" for name in sorted(given - needed)]
    if wrong:
        raise ValueError(f"it was stored with other options: {', '.join(wrong)}")
