"""``spangym baselines``: returns of the non-learning baselines and of the oracle in an id."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table as RichTable

from spangym.attention import NUM_ACTIONS
from spangym.envs import SpanControlVectorEnv, make_config
from spangym.envs.registration import full_id
from spangym.experiments.studies.study import StudyEnv
from spangym.utils.errors import UserError

EVAL_SEED = 1_000_000
"""Seed of the first episode, as in evaluations."""
_EXACT_LAYERS = 2
"""Number of layers up to which all plans are played; beyond that good ones are searched."""
_CLIMB_ROUNDS = 3
"""Rounds through all layers of the search for good plans."""
_EXACT_BEAM, _BEAM = 10, 3
"""Beam of `lookahead`; beyond two layers a wide one takes long, and each decision looks again."""

Rollout = tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.int64], NDArray[np.float64]]
"""Returns and content types of chunks, (num_envs, chunks), actions, (..., layers), and costs."""


@dataclass(frozen=True)
class ContentTypeReturns:
    """Mean returns of the chunks of one content type, and the spans that lead to them.

    Attributes:
        content_type: The content type.
        chunks: Number of its chunks.
        random: Return of uniformly random actions.
        fixed: Return of each action in every layer, by action.
        content_oracle: Return of the best plan for this content type; beyond two layers of the
            best that coordinate ascent finds.
        actions: That plan, one action for each layer.
        oracle: The highest return, found by `lookahead`.
        oracle_actions: How often the oracle takes each action, by layer and action.
    """

    content_type: str
    chunks: int
    random: float
    fixed: tuple[float, ...]
    content_oracle: float
    actions: tuple[int, ...]
    oracle: float
    oracle_actions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CostCoefReturns:
    """Mean returns of a chunk at one cost coefficient of an id whose episodes draw it.

    Attributes:
        cost_coef: The cost coefficient.
        random: Return of uniformly random actions.
        fixed: Return of each action in every layer, by action.
        oracle: The highest return.
    """

    cost_coef: float
    random: float
    fixed: tuple[float, ...]
    oracle: float

    @property
    def best_fixed(self) -> int:
        """Fixed action of the highest return."""
        return self.fixed.index(max(self.fixed))


@dataclass(frozen=True)
class BaselineReturns:
    """Mean returns of a chunk in episodes of the evaluation split.

    Attributes:
        id: Id of the environment.
        chunks: Number of chunks.
        random: Return of uniformly random actions.
        fixed: Return of each action in every layer, by action.
        best_by_layer: Return of the best plan, one action for each layer; beyond two layers of
            the best that coordinate ascent finds.
        content_oracle: Return of the best plan for each content type, likewise.
        oracle: The highest return, found by `lookahead`: beyond two layers a lower bound.
        actions: The plan of ``best_by_layer``.
        by_content_type: The same for the chunks of each content type.
        by_cost_coef: The same at each cost coefficient, if episodes draw it; the returns above are
            means over these, of policies that do not know the coefficient, except for the oracle.
        kwargs: Arguments of the environment that differ from those of the id.
    """

    id: str
    chunks: int
    random: float
    fixed: tuple[float, ...]
    best_by_layer: float
    content_oracle: float
    oracle: float
    actions: tuple[int, ...]
    by_content_type: tuple[ContentTypeReturns, ...]
    by_cost_coef: tuple[CostCoefReturns, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_fixed(self) -> float:
        """Return of the best fixed action."""
        return max(self.fixed)

    @property
    def score(self) -> float:
        """Score of the best fixed action, where 0 is random and 1 the oracle."""
        return (self.best_fixed - self.random) / (self.oracle - self.random)

    def to_row(self, num_actions: int = NUM_ACTIONS) -> tuple[str, ...]:
        """The row as text, in the order of `baseline_lines`; empty for missing actions."""
        fixed = [*map(_show, self.fixed), *[""] * (num_actions - len(self.fixed))]
        others = map(_show, (self.best_by_layer, self.content_oracle, self.oracle))
        best, name = self.fixed.index(self.best_fixed), self.id.removeprefix("spangym/")
        return (name, _show(self.random), *fixed, *others, f"{best}", f"{self.score:.2f}")


def _show(mean: float) -> str:
    # Adding 0.0 avoids a negative zero.
    return f"{round(mean, 3) + 0.0:.3f}"


def baseline_lines(rows: list[BaselineReturns]) -> list[tuple[str, ...]]:
    """Return lines of text, one for each policy, with its name and a cell for each row."""
    num_actions = max(len(row.fixed) for row in rows)
    fixed = (f"fixed:{action}" for action in range(num_actions))
    others = ("best by layer", "content oracle", "oracle", "best fixed", "its score")
    names = ("id", "random", *fixed, *others)
    return [*zip(names, *(row.to_row(num_actions) for row in rows), strict=True)]


def measure_baselines(
    name: str,
    episodes: int,
    progress: Callable[[int, int], None],
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> BaselineReturns:
    """Run every non-learning baseline and the oracle in an environment.

    Args:
        name: A registered id.
        episodes: Episodes of each policy, run as one vector environment.
        progress: Called with the number of policies done and the total, an estimate beyond two
            layers.
        kwargs: Arguments of the environment that replace those of the id.

    Raises:
        UserError: The id is unknown, or an argument is not valid.
    """
    try:
        config = make_config(name, {**kwargs, "split": "evaluation"})
    except (TypeError, ValueError) as error:
        raise UserError(f"environment {name!r}: {error}") from error
    if config.control_kv_cache:
        raise UserError(
            f"environment {name!r}: baselines are measured without control_kv_cache: omit it"
        )
    num_actions, layers = config.num_actions, config.num_layers
    is_exact = layers <= _EXACT_LAYERS
    cost_coefs = StudyEnv(full_id(name), kwargs=dict(kwargs)).eval_cost_coefs
    if cost_coefs and not is_exact:
        raise UserError(
            f"environment {name!r}: baselines beyond {_EXACT_LAYERS} layers are measured at one "
            "cost_coef: set it to a number"
        )
    if cost_coefs:
        config = replace(config, cost_coef=1.0)
    envs = SpanControlVectorEnv(episodes, **asdict(config))
    plans = [*itertools.product(range(num_actions), repeat=layers)] if is_exact else []
    plans = plans or [(action,) * layers for action in range(num_actions)]
    total = len(plans) + 2 + (not is_exact) * 2 * _CLIMB_ROUNDS * layers * num_actions
    done = itertools.count(1)

    def play(decide: Callable[[int, int], NDArray[Any]]) -> Rollout:
        rollout = _rollout(envs, decide)
        progress(min(next(done), total - 1), total)
        return _at_cost_coefs(rollout, cost_coefs) if cost_coefs else rollout

    def fixed(plan: tuple[int, ...]) -> NDArray[np.float64]:
        return play(lambda _, layer: np.full(episodes, plan[layer]))[0]

    by_plan = [*map(fixed, plans)]
    drawn = np.random.default_rng(0)
    random, content_types, *_ = play(lambda *_: drawn.integers(num_actions, size=episodes))
    if not is_exact:
        for groups in (np.zeros(content_types.shape, str), content_types):
            found = _climb(play, groups, layers, num_actions)
            by_plan += map(fixed, found)
            plans += found
    returns = np.stack(by_plan)
    if cost_coefs:
        # With the best of all plans for each chunk and cost coefficient.
        oracle, oracle_actions = returns.max(0), np.array(plans)[returns.argmax(0)]
    else:
        oracle, _, oracle_actions, _ = _rollout(
            envs, lambda *_: envs.lookahead(_EXACT_BEAM if is_exact else _BEAM).argmax(1)
        )
    progress(total, total)
    means = returns.mean((1, 2))
    uniform = [plans.index((action,) * layers) for action in range(num_actions)]
    by_content_type = []
    for content_type in np.unique(content_types):
        of_type = content_types == content_type
        by_plan = returns[:, of_type].mean(1)
        chosen = oracle_actions[of_type]
        by_content_type.append(
            ContentTypeReturns(
                content_type=str(content_type),
                chunks=int(of_type.sum()),
                random=float(random[of_type].mean()),
                fixed=tuple(by_plan[uniform].tolist()),
                content_oracle=float(by_plan.max()),
                actions=plans[int(by_plan.argmax())],
                oracle=float(oracle[of_type].mean()),
                oracle_actions=tuple(
                    tuple(np.bincount(chosen[:, layer], minlength=num_actions).tolist())
                    for layer in range(layers)
                ),
            )
        )
    content_oracle = sum(each.content_oracle * each.chunks for each in by_content_type)
    return BaselineReturns(
        id=name,
        chunks=int(random.size),
        random=float(random.mean()),
        fixed=tuple(means[uniform].tolist()),
        best_by_layer=float(means.max()),
        content_oracle=content_oracle / random.size,
        oracle=float(oracle.mean()),
        actions=plans[int(means.argmax())],
        by_content_type=tuple(by_content_type),
        by_cost_coef=tuple(
            CostCoefReturns(
                cost_coef,
                float(random[rows].mean()),
                tuple(returns[uniform][:, rows].mean((1, 2)).tolist()),
                float(oracle[rows].mean()),
            )
            for index, cost_coef in enumerate(cost_coefs)
            for rows in [slice(index * episodes, (index + 1) * episodes)]
        ),
        kwargs=dict(kwargs),
    )


def read_baselines(path: Path) -> list[BaselineReturns]:
    """Read the rows that ``spangym baselines --json`` wrote."""
    rows = []
    for row in json.loads(path.read_text("utf-8"))["rows"]:
        types, costs = row["by_content_type"], row.get("by_cost_coef", ())
        row["by_content_type"] = tuple(ContentTypeReturns(**each) for each in types)
        row["by_cost_coef"] = tuple(CostCoefReturns(**each) for each in costs)
        rows.append(BaselineReturns(**row))
    return rows


def baselines_table(rows: list[BaselineReturns]) -> RichTable:
    """The rows for the terminal, one line for each policy."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("mean return of a chunk")
    (_, *ids), *lines = baseline_lines(rows)
    for name in ids:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*line)
    return table


def _climb(
    play: Callable[[Callable[[int, int], NDArray[Any]]], Rollout],
    groups: NDArray[np.str_],
    layers: int,
    num_actions: int,
) -> list[tuple[int, ...]]:
    """Find a good plan for each group of chunks by coordinate ascent from full span.

    The plans of all groups are changed together, since a chunk's return depends on its own only.

    Args:
        play: Plays actions by chunk and layer.
        groups: Name of each chunk's group, shape (num_envs, chunks).
        layers: Number of layers.
        num_actions: Number of actions.

    Returns:
        One plan for each group, in the order of `numpy.unique`.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    numbers = numbers.reshape(groups.shape)

    def mean_returns(plans: NDArray[np.int64]) -> NDArray[np.float64]:
        returns = play(lambda chunk, layer: plans[numbers[:, chunk], layer])[0]
        return np.array([returns[numbers == number].mean() for number in range(len(names))])

    plans = np.full((len(names), layers), num_actions - 1)
    best = mean_returns(plans)
    for _ in range(_CLIMB_ROUNDS):
        before = plans.copy()
        for layer, action in itertools.product(range(layers), range(num_actions)):
            changed = plans.copy()
            changed[:, layer] = action
            means = mean_returns(changed)
            better = means > best
            plans[better], best[better] = changed[better], means[better]
        if (plans == before).all():
            break
    return [tuple(plan) for plan in plans.tolist()]


def _at_cost_coefs(rollout: Rollout, cost_coefs: Sequence[float]) -> Rollout:
    """Returns at several cost coefficients, one after the other, from those at coefficient 1."""
    returns, content_types, actions, costs = rollout
    times = len(cost_coefs)
    by_cost = [returns + costs - cost_coef * costs for cost_coef in cost_coefs]
    return (
        np.concatenate(by_cost),
        np.tile(content_types, (times, 1)),
        np.tile(actions, (times, 1, 1)),
        np.tile(costs, (times, 1)),
    )


def _rollout(envs: SpanControlVectorEnv, decide: Callable[[int, int], NDArray[Any]]) -> Rollout:
    """Play one episode in each environment; ``decide`` gives the actions by chunk and layer.

    Returns:
        Returns and content types of the chunks, each of shape (num_envs, chunks), the actions
        taken in them, (num_envs, chunks, layers), and their costs, which the returns include.
    """
    config = envs.config
    envs.reset(seed=EVAL_SEED)
    core = envs.core
    returns, costs = np.zeros((2, envs.num_envs, config.chunks_per_episode))
    content_types = np.empty(returns.shape, dtype=object)
    actions = np.empty((*returns.shape, config.num_layers), np.int64)
    for chunk, layer in _decisions(config.chunks_per_episode, config.num_layers):
        actions[:, chunk, layer] = decide(chunk, layer)
        step = core.step(actions[:, chunk, layer])
        returns[:, chunk] += step.rewards
        costs[:, chunk] -= [info["reward_components"].get("cost", 0.0) for info in step.infos]
        content_types[:, chunk] = [info["content_type"] for info in step.infos]
    return returns, content_types.astype(np.str_), actions, costs


def _decisions(chunks: int, layers: int) -> Iterator[tuple[int, int]]:
    return itertools.product(range(chunks), range(layers))
