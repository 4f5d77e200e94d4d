"""``spangym references``: what an id pays to policies that learn nothing, and to the best."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from spangym.attention import ACTIONS
from spangym.envs import SpanControlVectorEnv
from spangym.envs.registration import arguments_of
from spangym.utils.errors import UserError

FIRST_SEED = 1_000_000
"""Episode ``i`` is seeded so much more than ``i``, as in evaluations."""


@dataclass(frozen=True)
class References:
    """Mean returns of a chunk, on streams of the evaluation split.

    Attributes:
        id: Of the environment.
        chunks: How many were played.
        random: Every action at equal odds.
        fixed: The same action in every layer, by action.
        best_by_layer: The best action of each layer, whatever the content; and its return.
        told: The best of those for each kind of content: a policy that is told the source.
        oracle: The best return that can be had, by `lookahead`.
        actions: The actions of ``best_by_layer``, one a layer.
    """

    id: str
    chunks: int
    random: float
    fixed: tuple[float, ...]
    best_by_layer: float
    told: float
    oracle: float
    actions: tuple[int, ...]

    @property
    def best_fixed(self) -> float:
        """The best of the fixed actions."""
        return max(self.fixed)

    @property
    def score(self) -> float:
        """Of the best fixed action, where random is 0 and the oracle is 1."""
        return (self.best_fixed - self.random) / (self.oracle - self.random)

    def cells(self) -> tuple[str, ...]:
        """The row as text, by `COLUMNS`."""
        means = (self.random, *self.fixed, self.best_by_layer, self.told, self.oracle)
        best = self.fixed.index(self.best_fixed)
        name = self.id.removeprefix("spangym/")
        # Lest a sum of roundings be shown as a negative nothing.
        shown = (f"{round(mean, 3) + 0.0:.3f}" for mean in means)
        return (name, *shown, f"{best}", f"{self.score:.2f}")


COLUMNS = (
    "id",
    "random",
    *(f"fixed:{action}" for action in range(ACTIONS)),
    "best by layer",
    "told the kind",
    "oracle",
    "best fixed",
    "its score",
)


def measure_references(
    name: str, episodes: int, progress: Callable[[int, int], None]
) -> References:
    """Play an id with every policy that learns nothing, and look ahead for the best.

    Args:
        name: A registered id of one or two layers.
        episodes: Episodes of each policy, side by side.
        progress: Called with policies played, and how many there are.

    Raises:
        UserError: There is no such id.
    """
    try:
        arguments = arguments_of(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    envs = SpanControlVectorEnv(episodes, **{**arguments, "split": "evaluation"})
    layers = envs.settings.layers
    ways = [*itertools.product(range(ACTIONS), repeat=layers)]
    total = len(ways) + 2

    def fixed(way: tuple[int, ...]) -> NDArray[np.float64]:
        return _play(envs, lambda layer: np.full(episodes, way[layer]))[0]

    by_way = []
    for way in ways:
        by_way.append(fixed(way))
        progress(len(by_way), total)
    returns = np.stack(by_way)
    drawn = np.random.default_rng(0)
    random, kinds = _play(envs, lambda _: drawn.integers(ACTIONS, size=episodes))
    progress(total - 1, total)
    oracle, _ = _play(envs, lambda _: envs.lookahead().argmax(1))
    progress(total, total)
    means = returns.mean((1, 2))
    told = sum(
        returns[:, kinds == kind].mean(1).max() * (kinds == kind).mean()
        for kind in np.unique(kinds)
    )
    return References(
        id=name,
        chunks=int(random.size),
        random=float(random.mean()),
        fixed=tuple(float(means[ways.index((action,) * layers)]) for action in range(ACTIONS)),
        best_by_layer=float(means.max()),
        told=float(told),
        oracle=float(oracle.mean()),
        actions=ways[int(means.argmax())],
    )


def make_references_table(rows: list[References]) -> Table:
    """The rows for the terminal, policies below one another."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("mean return of a chunk")
    cells = [row.cells() for row in rows]
    for row in cells:
        table.add_column(row[0], justify="right")
    for column, name in enumerate(COLUMNS[1:], start=1):
        table.add_row(name, *(row[column] for row in cells))
    return table


def _play(
    envs: SpanControlVectorEnv, decide: Callable[[int], NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """One episode in every lane; returns and kinds of its chunks, each of shape (lanes, chunks)."""
    settings = envs.settings
    envs.reset(seed=FIRST_SEED)
    simulator = envs.simulator
    returns = np.zeros((envs.num_envs, settings.chunks))
    kinds = np.empty(returns.shape, dtype=object)
    for chunk, layer in _decisions(settings.chunks, settings.layers):
        step = simulator.step(decide(layer))
        returns[:, chunk] += step.rewards
        kinds[:, chunk] = [info["source"] for info in step.infos]
    return returns, kinds.astype(np.str_)


def _decisions(chunks: int, layers: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(chunks), range(layers))
