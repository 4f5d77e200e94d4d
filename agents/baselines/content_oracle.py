"""ContentOracleAgent: the best fixed action sequence of each content type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.base import num_actions_in
from spangym.agents.baselines.env_aware import EnvAwarePolicy, SupportsLookahead, num_layers_of
from spangym.utils.rng import Seed, make_generator
from spangym.utils.scalars import as_float, as_int

_MAX_LAYERS = 3
"""Number of layers up to which all action sequences of a chunk are tried."""
_MAX_SEQUENCES = 1_000_000
"""Number of action sequences up to which all of them are tried."""


@dataclass
class ReturnStats:
    """Returns of action sequences on the chunks of one content type.

    Attributes:
        counts: Number of chunks by action sequence, int64 (actions^layers,).
        totals: Sum of returns by action sequence, float64 (actions^layers,).
    """

    counts: NDArray[np.int64]
    totals: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean return by action sequence; minus infinity if never tried."""
        means = np.full(len(self.counts), -np.inf)
        return np.divide(self.totals, self.counts, out=means, where=self.counts > 0)


class ContentOracleAgent(EnvAwarePolicy):
    """Observes the content type, and plays its action sequence of highest mean return.

    Training tries every action sequence once on each content type, then the best so far, or with
    probability ``epsilon`` a random one. An unseen content type gets the sequence that is best over
    all content types.

    Args:
        epsilon: Exploration rate, in [0, 1].
        seed: Seed of the exploration; system entropy if None.

    Example:
        >>> from spangym.envs import SB3SpanControlVecEnv, make_config
        >>> config = make_config("SpanControl-v0", {"dims": 8, "ctx": 16})
        >>> env = SB3SpanControlVecEnv(config, n_envs=4)
        >>> _ = env.seed(0)
        >>> agent = ContentOracleAgent(seed=0)
        >>> agent.learn(env, 40)
        >>> {each: stats.counts.sum().item() for each, stats in sorted(agent.stats.items())}
        {'code': 15, 'documentation': 5}
    """

    def __init__(self, epsilon: float = 0.5, seed: Seed = None) -> None:
        self.epsilon = as_float("epsilon", epsilon, 0, 1)
        self.stats: dict[str, ReturnStats] = {}
        """Returns by content type."""
        self._num_layers = 0
        self._generator = make_generator(seed)

    def learn(self, env: VecEnv, steps: int) -> None:
        """Train for ``steps`` steps over all environments; an incomplete last chunk is ignored."""
        num_layers = num_layers_of(env)
        if num_layers > _MAX_LAYERS:
            rule = f"use at most {_MAX_LAYERS} layers, not {num_layers}"
            raise ValueError(f"it tries all action sequences of a chunk: {rule}")
        if (number := num_actions_in(env) ** num_layers) > _MAX_SEQUENCES:
            raise ValueError(
                f"it tries all action sequences of a chunk, at most {_MAX_SEQUENCES}, not {number}"
            )
        if (trained := self._num_layers) not in (0, num_layers):
            raise ValueError(f"the agent was trained with {trained} layers, not {num_layers}")
        self._num_layers, self._num_actions = num_layers, num_actions_in(env)
        env.reset()
        lookahead_env = cast(SupportsLookahead, env)
        chunks, rest = divmod(steps // env.num_envs, num_layers)
        for length in [num_layers] * chunks + [rest] * (rest > 0):
            content_types, returns = np.array(lookahead_env.content_type()), np.zeros(env.num_envs)
            sequences = self._explore(content_types)
            for layer in range(length):
                _, rewards, *_ = env.step(self._actions(sequences, layer))
                returns += rewards
            if length == num_layers:
                results = zip(content_types.tolist(), sequences, returns, strict=True)
                for content_type, sequence, chunk_return in results:
                    stats = self.stats.setdefault(content_type, self._empty_stats())
                    stats.counts[sequence] += 1
                    stats.totals[sequence] += chunk_return

    def _explore(self, content_types: NDArray[np.str_]) -> NDArray[np.int64]:
        sequences = np.zeros(len(content_types), np.int64)
        for content_type in np.unique(content_types):
            stats = self.stats.get(str(content_type), self._empty_stats())
            indices = np.flatnonzero(content_types == content_type)
            untried = self._generator.permutation(np.flatnonzero(stats.counts == 0))[: len(indices)]
            others = self._generator.integers(len(stats.counts), size=len(indices) - len(untried))
            explores = self._generator.random(len(others)) < self.epsilon
            others[~explores] = stats.means.argmax()
            sequences[indices] = [*untried, *others]
        return sequences

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions of the best sequences at the next layer, shape (num_envs,)."""
        del observations
        if not self.stats:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        content_types = np.atleast_1d(self.env.content_type()).tolist()
        sequences = np.array([*map(self.best_sequence, content_types)])
        return self._actions(sequences, self._next_layer(self._num_layers))

    def best_sequence(self, content_type: str) -> int:
        """Return the best action sequence of a content type; its digits are the actions."""
        if content_type in self.stats:
            return int(self.stats[content_type].means.argmax())
        # Weighted by the frequency of content types, not by how often a sequence was tried on each.
        weights = np.array([[stats.counts.sum()] for stats in self.stats.values()])
        means = np.stack([stats.means for stats in self.stats.values()])
        tried = np.isfinite(means)
        sums = (weights * np.where(tried, means, 0)).sum(0)
        shares = (weights * tried).sum(0)
        overall = np.full(len(sums), -np.inf)
        return int(np.divide(sums, shares, out=overall, where=shares > 0).argmax())

    def _actions(self, sequences: NDArray[np.int64], layer: int) -> NDArray[np.int64]:
        following = self._num_layers - 1 - layer
        return sequences // self._num_actions**following % self._num_actions

    def _empty_stats(self) -> ReturnStats:
        number = self._num_actions**self._num_layers
        return ReturnStats(np.zeros(number, np.int64), np.zeros(number))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "epsilon": self.epsilon,
            "num_layers": self._num_layers,
            "stats": {
                content_type: {"counts": stats.counts.tolist(), "totals": stats.totals.tolist()}
                for content_type, stats in self.stats.items()
            },
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        stored = {
            name: ReturnStats(np.array(stats["counts"], np.int64), np.array(stats["totals"], float))
            for name, stats in state["stats"].items()
        }
        shapes = {each.shape for stats in stored.values() for each in (stats.counts, stats.totals)}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(f"its statistics have the shapes {sorted(shapes)}")
        self._num_layers = as_int("num_layers", state["num_layers"], 0, _MAX_LAYERS)
        self.epsilon, self.stats = as_float("epsilon", state["epsilon"], 0, 1), stored
        self._generator.bit_generator.state = state["generator"]
