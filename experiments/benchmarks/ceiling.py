"""``spangym bench ceiling``: what an observation is worth, by policies trained on all returns."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table as RichTable
from torch import Tensor, nn

from spangym.envs import EnvConfig, make_config
from spangym.envs.tables.table_core import TableCore
from spangym.utils.errors import UserError

OBSERVATIONS: dict[str, dict[str, Any]] = {
    "features of 8 groups, lags": {"pool_groups": 8, "autocorrelation": True},
    "digits": {"encoding": "box"},
}
"""Observations by name, as arguments of the environment; all contain the layer index."""

_ENDS = (0.8, 0.9)
"""Shares of the levels at which those to train on, and those to choose the epoch by, end."""

_ANNEALING = 0.7
"""Share of the epochs in which the entropy is rewarded, less and less."""


@dataclass(frozen=True)
class CeilingRow:
    """Mean returns of a chunk. Fixed sequences are the best ones on the reported levels.

    Attributes:
        observation: Name of the observation.
        levels: Which levels: ``held-out`` ones of the training split, or ``evaluation``.
        num_levels: Number of these levels.
        best_fixed: Return of the best action sequence.
        content_oracle: Return of the best action sequence for each content type.
        oracle: Return of the best action sequence for each level.
        policies: Return of the trained policy of each seed.
    """

    observation: str
    levels: str
    num_levels: int
    best_fixed: float
    content_oracle: float
    oracle: float
    policies: tuple[float, ...]

    @property
    def share(self) -> float | None:
        """Share of the way from the best fixed sequence to the oracle, in the mean of seeds.

        None if there is no way between them.
        """
        way = self.oracle - self.best_fixed
        return (fmean(self.policies) - self.best_fixed) / way if way else None


@dataclass(frozen=True)
class CeilingBench:
    """Sizes of the study.

    Attributes:
        env_id: Id of the environment.
        kwargs: Arguments of the environment that replace those of the id.
        num_levels: Levels of the training split.
        eval_levels: Levels of the evaluation split.
        seeds: Trainings for each observation.
        epochs: Passes through the levels.
        batch: Levels of a gradient step.
        hidden: Width of the two hidden layers.
    """

    env_id: str = "SpanBudget-v0"
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_levels: int = 8_192
    eval_levels: int = 1_024
    seeds: int = 3
    epochs: int = 100
    batch: int = 256
    hidden: int = 128

    def config(self, split: str, observation: Mapping[str, Any]) -> EnvConfig:
        """Return the environment of a split, whose table is needed."""
        levels = self.num_levels if split == "train" else self.eval_levels
        more = {"split": split, "num_levels": levels, "backend": "table"}
        shown = {"encoding": "features", "include_layer_index": True, **observation}
        try:
            return make_config(self.env_id, {**self.kwargs, **shown, **more})
        except (TypeError, ValueError) as error:
            raise UserError(f"environment {self.env_id!r}: {error}") from error

    def configs(self) -> list[EnvConfig]:
        """Return an environment for each table that `measure` reads."""
        return [self.config(split, {}) for split in ("train", "evaluation")]

    def measure(self, say: Callable[[str], object] = lambda _: None) -> Iterator[CeilingRow]:
        """Train and evaluate the policies.

        Args:
            say: Called with what is being trained.

        Yields:
            For each observation, held-out levels and then the evaluation split.
        """
        for name, observation in OBSERVATIONS.items():
            levels = read_levels(self.config("train", observation))
            ends = [round(share * self.num_levels) for share in (0, *_ENDS, 1)]
            train, stop, held_out = (
                levels.select(slice(*each)) for each in itertools.pairwise(ends)
            )
            policies = []
            for seed in range(self.seeds):
                say(f"{name}, seed {seed}")
                policies.append(self.train(train, stop, seed))
            evaluation = read_levels(self.config("evaluation", observation))
            for which, each in (("held-out", held_out), ("evaluation", evaluation)):
                returns = tuple(policy.greedy_return(each) for policy in policies)
                yield CeilingRow(name, which, len(each.returns), *each.bounds(), returns)

    def train(self, levels: Levels, stop: Levels, seed: int) -> Policy:
        """Train a policy by gradient ascent on its expected return over all action sequences.

        The entropy of the sequences is rewarded at first, without which policies end in local
        optima. The policy of the best epoch on other levels is kept.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = Policy(levels, self.hidden)
            optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=1e-2)
            spread = float(levels.returns.std(1).mean())
            best, kept = -np.inf, policy
            for epoch in range(self.epochs):
                temperature = spread * max(0.0, 1 - epoch / (_ANNEALING * self.epochs))
                for rows in torch.randperm(len(levels.returns)).split(self.batch):
                    batch = levels.select(rows)
                    chosen = policy.probabilities(batch)
                    value = batch.returns - temperature * chosen.clamp_min(1e-12).log()
                    loss = -(chosen * value).sum(1).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                if (reached := policy.greedy_return(stop)) > best:
                    best, kept = reached, copy.deepcopy(policy)
        return kept


@dataclass(frozen=True)
class Levels:
    """All observations and returns of some levels with ``A`` actions.

    Attributes:
        observations: By layer, shape (levels, A^layer, numbers).
        returns: Return of each action sequence, shape (levels, A^layers).
        content_types: Index of the content type, shape (levels,).
    """

    observations: list[Tensor]
    returns: Tensor
    content_types: Tensor

    def select(self, rows: Any) -> Levels:
        """Return some of the levels."""
        chosen = [each[rows] for each in self.observations]
        return Levels(chosen, self.returns[rows], self.content_types[rows])

    def bounds(self) -> tuple[float, float, float]:
        """Return of the best sequence for all levels, for each content type, for each level."""
        types = [self.returns[self.content_types == each] for each in self.content_types.unique()]
        by_type = sum(len(each) * float(each.mean(0).max()) for each in types) / len(self.returns)
        return float(self.returns.mean(0).max()), by_type, float(self.returns.amax(1).mean())


class Policy(nn.Module):
    """A network for each layer, from its normalized observation to logits of the actions."""

    def __init__(self, levels: Levels, hidden: int) -> None:
        super().__init__()
        layers = len(levels.observations)
        num_actions = round(levels.returns.shape[1] ** (1 / layers))
        self.networks = nn.ModuleList()
        for each in levels.observations:
            rows = each.flatten(0, 1)
            network = nn.Sequential(
                _Standardize(rows),
                nn.Linear(rows.shape[1], hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, num_actions),
            )
            self.networks.append(network)

    def forward(self, levels: Levels) -> list[Tensor]:
        """Return the logits by layer, shape (levels, A^layer, A)."""
        pairs = zip(self.networks, levels.observations, strict=True)
        return [network(observations) for network, observations in pairs]

    def probabilities(self, levels: Levels) -> Tensor:
        """Probability of each action sequence, shape (levels, A^layers)."""
        joint = torch.ones(len(levels.returns), 1)
        for logits in self(levels):
            joint = (joint[..., None] * logits.softmax(-1)).flatten(1)
        return joint

    @torch.no_grad()
    def greedy_return(self, levels: Levels) -> float:
        """Mean return of the most probable action at every layer."""
        rows = torch.arange(len(levels.returns))
        prefix = torch.zeros_like(rows)
        for logits in self(levels):
            prefix = prefix * logits.shape[-1] + logits[rows, prefix].argmax(1)
        return float(levels.returns[rows, prefix].mean())


class _Standardize(nn.Module):
    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.mean, self.std = rows.mean(0), rows.std(0).clamp_min(1e-6)

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.std


def read_levels(config: EnvConfig) -> Levels:
    """Read all levels of an environment's table."""
    core = TableCore(config, 1)
    returns = np.zeros((config.num_levels, 1))
    for rewards in core.rewards:
        returns = returns.repeat(config.num_actions, axis=1) + rewards
    observations = [torch.from_numpy(each.copy()).float() for each in core.observations]
    types = torch.from_numpy(core.table.arrays["content_types"].copy())
    return Levels(observations, torch.from_numpy(returns).float(), types)


def ceiling_table(rows: Sequence[CeilingRow]) -> RichTable:
    """The rows for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    names = ("best fixed", "content oracle", "policy", "oracle", "share", "of seeds")
    for name in ("observation", "levels", "number", *names):
        table.add_column(name, justify="left" if name in ("observation", "levels") else "right")
    for row in rows:
        means = (row.best_fixed, row.content_oracle, fmean(row.policies), row.oracle)
        spread = max(row.policies) - min(row.policies)
        table.add_row(
            row.observation,
            row.levels,
            f"{row.num_levels:,}",
            *(f"{mean:.4f}" for mean in means),
            "-" if row.share is None else f"{row.share:.3f}",
            f"{spread:.4f}",
        )
    return table
