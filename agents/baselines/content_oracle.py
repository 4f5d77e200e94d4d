"""A policy that is told what it reads: how far one gets who knows the source, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.baselines.env_aware import EnvAwarePolicy, SupportsLookahead, num_layers_of
from spangym.attention import NUM_ACTIONS

_MAX_LAYERS = 3
"""Of more, there are too many plans through a chunk to try each."""


@dataclass
class ReturnStats:
    """What was seen of the plans through the chunks of one content type.

    Attributes:
        counts: How often each plan was executed, int64 of shape (plans,).
        totals: Returns of a chunk summed over those times, float64 of shape (plans,).
    """

    counts: NDArray[np.int64]
    totals: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean return of each plan, shape (plans,); minus infinity where it was never executed."""
        means = np.full(len(self.counts), -np.inf)
        return np.divide(self.totals, self.counts, out=means, where=self.counts > 0)


class ContentOracleAgent(EnvAwarePolicy):
    """The plan through a chunk that has earned most on chunks of its content type.

    A plan is one action for each layer. In training every plan is executed once on each content type;
    after that it is the best so far or, in a share ``epsilon`` of the chunks, any. A content type that was
    never met gets the plan that is best over all content types.

    Args:
        epsilon: Share of the chunks that are explored, in [0, 1].
        seed: Seed of the exploration.

    Raises:
        ValueError: The share is none.

    Example:
        >>> from spangym.envs import SB3SpanControlVecEnv, make_config
        >>> env = SB3SpanControlVecEnv(make_config("SpanControl-v0", {"dims": 8, "ctx": 16}), n_envs=4)
        >>> _ = env.seed(0)
        >>> agent = ContentOracleAgent(seed=0)
        >>> agent.learn(env, 40)
        >>> {content_type: int(stats.counts.sum()) for content_type, stats in sorted(agent.stats_by_content_type.items())}
        {'code': 15, 'documentation': 5}
    """

    def __init__(self, epsilon: float = 0.5, seed: int | None = None) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], got {epsilon!r}")
        self.epsilon = float(epsilon)
        self.stats_by_content_type: dict[str, ReturnStats] = {}
        """What was seen, by content type."""
        self._layers = 0
        self._generator = np.random.default_rng(seed)

    def learn(self, env: VecEnv, steps: int) -> None:
        """Try plans for so many steps, over all environments together; those begun in the end don't count.

        Raises:
            ValueError: The environment has more than three layers, or others than were learned with.
        """
        layers = num_layers_of(env)
        if layers > _MAX_LAYERS:
            raise ValueError(
                f"ContentOracleAgent tries every plan through a chunk, {NUM_ACTIONS}^layers: use at most "
                f"{_MAX_LAYERS} layers, not {layers}"
            )
        if self._layers not in (0, layers):
            raise ValueError(f"what was learned is of {self._layers} layers, not of {layers}")
        self._layers = layers
        env.reset()
        lookahead_env = cast(SupportsLookahead, env)
        whole, rest = divmod(steps // env.num_envs, layers)
        for taken in [layers] * whole + [rest] * (rest > 0):
            content_types, returns = np.array(lookahead_env.content_type()), np.zeros(env.num_envs)
            plans = self._explore(content_types)
            for layer in range(taken):
                _, rewards, *_ = env.step(self._actions(plans, layer))
                returns += rewards
            if taken == layers:
                self._record(content_types, plans, returns)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The actions of the best plans at the coming layer, shape (num_envs,).

        Raises:
            RuntimeError: Nothing was learned or loaded, or `on_episode_start` was not called.
        """
        del observations
        if not self.stats_by_content_type:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        content_types = np.atleast_1d(self.env.content_type()).tolist()
        plans = np.array([self.best_plan(content_type) for content_type in content_types])
        return self._actions(plans, self._next_layer(self._layers))

    def best_plan(self, content_type: str) -> int:
        """The plan that has earned most on that content type; if it was never met, over all content types.

        Its decimal digits are the actions, the first layer's first.
        """
        if content_type in self.stats_by_content_type:
            return int(self.stats_by_content_type[content_type].means.argmax())
        all_stats = [*self.stats_by_content_type.values()]
        # Weighted by how frequent the content types are, not by where a plan happened to be tried.
        weights = np.array([[stats.counts.sum()] for stats in all_stats])
        means = np.stack([stats.means for stats in all_stats])
        tried = np.isfinite(means)
        sums = (weights * np.where(tried, means, 0)).sum(0)
        shares = (weights * tried).sum(0)
        overall = np.full(len(sums), -np.inf)
        return int(np.divide(sums, shares, out=overall, where=shares > 0).argmax())

    def _explore(self, content_types: NDArray[np.str_]) -> NDArray[np.int64]:
        """Plans to execute in training, shape (num_envs,)."""
        plans, number = np.zeros(len(content_types), np.int64), NUM_ACTIONS**self._layers
        for content_type in np.unique(content_types):
            stats = self.stats_by_content_type.get(str(content_type), _empty_stats(number))
            indices = np.flatnonzero(content_types == content_type)
            untried = self._generator.permutation(np.flatnonzero(stats.counts == 0))[: len(indices)]
            others = self._generator.integers(number, size=len(indices) - len(untried))
            explores = self._generator.random(len(others)) < self.epsilon
            others[~explores] = stats.means.argmax()
            plans[indices] = [*untried, *others]
        return plans

    def _record(
        self,
        content_types: NDArray[np.str_],
        plans: NDArray[np.int64],
        returns: NDArray[np.float64],
    ) -> None:
        for content_type, plan, earned in zip(content_types.tolist(), plans, returns, strict=True):
            stats = self.stats_by_content_type.setdefault(
                content_type, _empty_stats(NUM_ACTIONS**self._layers)
            )
            stats.counts[plan] += 1
            stats.totals[plan] += earned

    def _actions(self, plans: NDArray[np.int64], layer: int) -> NDArray[np.int64]:
        return plans // NUM_ACTIONS ** (self._layers - 1 - layer) % NUM_ACTIONS

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {
            "epsilon": self.epsilon,
            "layers": self._layers,
            "stats_by_content_type": {
                content_type: {"counts": stats.counts.tolist(), "totals": stats.totals.tolist()}
                for content_type, stats in self.stats_by_content_type.items()
            },
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epsilon, self._layers = state["epsilon"], state["layers"]
        self.stats_by_content_type = {
            content_type: ReturnStats(
                np.array(stats["counts"], np.int64), np.array(stats["totals"], float)
            )
            for content_type, stats in state["stats_by_content_type"].items()
        }
        self._generator.bit_generator.state = state["generator"]


def _empty_stats(plans: int) -> ReturnStats:
    return ReturnStats(np.zeros(plans, np.int64), np.zeros(plans))
