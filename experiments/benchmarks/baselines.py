"""``spangym baselines``: returns of the non-learning baselines and of the oracle in an id."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table as RichTable

from spangym.attention import NUM_ACTIONS
from spangym.envs import SpanControlVectorEnv
from spangym.envs.registration import default_kwargs
from spangym.utils.errors import UserError

EVAL_SEED = 1_000_000
"""Seed of the first episode, as in evaluations."""


@dataclass(frozen=True)
class BaselineReturns:
    """Mean returns of a chunk in episodes of the evaluation split.

    Attributes:
        id: Id of the environment.
        chunks: Number of chunks.
        random: Return of uniformly random actions.
        fixed: Return of each action in every layer, by action.
        best_by_layer: Return of the best plan, one action for each layer.
        content_oracle: Return of the best plan for each content type.
        oracle: The highest return, found by `lookahead`.
        actions: The plan of ``best_by_layer``.
    """

    id: str
    chunks: int
    random: float
    fixed: tuple[float, ...]
    best_by_layer: float
    content_oracle: float
    oracle: float
    actions: tuple[int, ...]

    @property
    def best_fixed(self) -> float:
        """Return of the best fixed action."""
        return max(self.fixed)

    @property
    def score(self) -> float:
        """Score of the best fixed action: 0 is random, 1 the oracle."""
        return (self.best_fixed - self.random) / (self.oracle - self.random)

    def to_row(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`."""
        means = (self.random, *self.fixed, self.best_by_layer, self.content_oracle, self.oracle)
        best = self.fixed.index(self.best_fixed)
        name = self.id.removeprefix("spangym/")
        # Adding 0.0 avoids a negative zero.
        shown = (f"{round(mean, 3) + 0.0:.3f}" for mean in means)
        return (name, *shown, f"{best}", f"{self.score:.2f}")


COLUMNS = (
    "id",
    "random",
    *(f"fixed:{action}" for action in range(NUM_ACTIONS)),
    "best by layer",
    "content oracle",
    "oracle",
    "best fixed",
    "its score",
)


def measure_baselines(
    name: str, episodes: int, progress: Callable[[int, int], None]
) -> BaselineReturns:
    """Run every non-learning baseline and the oracle in an environment.

    Args:
        name: A registered id with one or two layers.
        episodes: Episodes of each policy, run as one vector environment.
        progress: Called with the number of policies done and the total.

    Raises:
        UserError: The id is unknown.
    """
    try:
        kwargs = default_kwargs(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    envs = SpanControlVectorEnv(episodes, **{**kwargs, "split": "evaluation"})
    layers = envs.config.num_layers
    plans = [*itertools.product(range(NUM_ACTIONS), repeat=layers)]
    total = len(plans) + 2

    def fixed(plan: tuple[int, ...]) -> NDArray[np.float64]:
        return _rollout(envs, lambda layer: np.full(episodes, plan[layer]))[0]

    by_plan = []
    for plan in plans:
        by_plan.append(fixed(plan))
        progress(len(by_plan), total)
    returns = np.stack(by_plan)
    drawn = np.random.default_rng(0)
    random, content_types = _rollout(envs, lambda _: drawn.integers(NUM_ACTIONS, size=episodes))
    progress(total - 1, total)
    oracle, _ = _rollout(envs, lambda _: envs.lookahead().argmax(1))
    progress(total, total)
    means = returns.mean((1, 2))
    content_oracle = sum(
        returns[:, content_types == content_type].mean(1).max()
        * (content_types == content_type).mean()
        for content_type in np.unique(content_types)
    )
    return BaselineReturns(
        id=name,
        chunks=int(random.size),
        random=float(random.mean()),
        fixed=tuple(float(means[plans.index((action,) * layers)]) for action in range(NUM_ACTIONS)),
        best_by_layer=float(means.max()),
        content_oracle=float(content_oracle),
        oracle=float(oracle.mean()),
        actions=plans[int(means.argmax())],
    )


def baselines_table(rows: list[BaselineReturns]) -> RichTable:
    """The rows for the terminal, one line for each policy."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("mean return of a chunk")
    cells = [row.to_row() for row in rows]
    for row in cells:
        table.add_column(row[0], justify="right")
    for column, name in enumerate(COLUMNS[1:], start=1):
        table.add_row(name, *(row[column] for row in cells))
    return table


def _rollout(
    envs: SpanControlVectorEnv, decide: Callable[[int], NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Returns and content types of the chunks of one episode, each of shape (num_envs, chunks)."""
    config = envs.config
    envs.reset(seed=EVAL_SEED)
    core = envs.core
    returns = np.zeros((envs.num_envs, config.chunks_per_episode))
    content_types = np.empty(returns.shape, dtype=object)
    for chunk, layer in _decisions(config.chunks_per_episode, config.num_layers):
        step = core.step(decide(layer))
        returns[:, chunk] += step.rewards
        content_types[:, chunk] = [info["content_type"] for info in step.infos]
    return returns, content_types.astype(np.str_)


def _decisions(chunks: int, layers: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(chunks), range(layers))
