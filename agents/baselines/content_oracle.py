"""A policy that is told what it reads: how far one gets who knows the source, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.baselines.env_aware import ForeseeingAgent, Foreseen, layers_of
from spangym.attention import ACTIONS

_MOST_LAYERS = 3
"""Of more, there are too many ways through a chunk to try each."""


@dataclass
class Tally:
    """What was seen of the ways through the chunks of one kind.

    Attributes:
        counts: How often each way was gone, int64 of shape (ways,).
        totals: Returns of a chunk summed over those times, float64 of shape (ways,).
    """

    counts: NDArray[np.int64]
    totals: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean return of each way, shape (ways,); minus infinity where it was never gone."""
        means = np.full(len(self.counts), -np.inf)
        return np.divide(self.totals, self.counts, out=means, where=self.counts > 0)


class ToldAgent(ForeseeingAgent):
    """The way through a chunk that has earned most on chunks of its kind.

    A way is one action for each layer. In training every way is gone once on each kind of content;
    after that it is the best so far or, in a share ``epsilon`` of the chunks, any. A kind that was
    never met gets the way that is best over all kinds.

    Args:
        epsilon: Share of the chunks that are explored, in [0, 1].
        seed: Seed of the exploration.

    Raises:
        ValueError: The share is none.

    Example:
        >>> from spangym.envs import SpanControlVecEnv, settings_for
        >>> env = SpanControlVecEnv(settings_for("SpanControl-v0", {"dims": 8, "ctx": 16}), lanes=4)
        >>> _ = env.seed(0)
        >>> agent = ToldAgent(seed=0)
        >>> agent.learn(env, 40)
        >>> {kind: int(tally.counts.sum()) for kind, tally in sorted(agent.tallies.items())}
        {'code': 15, 'documentation': 5}
    """

    def __init__(self, epsilon: float = 0.5, seed: int | None = None) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1], got {epsilon!r}")
        self.epsilon = float(epsilon)
        self.tallies: dict[str, Tally] = {}
        """What was seen, by kind."""
        self._layers = 0
        self._generator = np.random.default_rng(seed)

    def learn(self, env: VecEnv, steps: int) -> None:
        """Try ways for so many steps, over all lanes together; those begun in the end don't count.

        Raises:
            ValueError: The environment has more than three layers, or others than were learnt with.
        """
        layers = layers_of(env)
        if layers > _MOST_LAYERS:
            raise ValueError(
                f"ToldAgent tries every way through a chunk, {ACTIONS}^layers: use at most "
                f"{_MOST_LAYERS} layers, not {layers}"
            )
        if self._layers not in (0, layers):
            raise ValueError(f"what was learnt is of {self._layers} layers, not of {layers}")
        self._layers = layers
        env.reset()
        foreseen = cast(Foreseen, env)
        whole, rest = divmod(steps // env.num_envs, layers)
        for taken in [layers] * whole + [rest] * (rest > 0):
            kinds, returns = np.array(foreseen.kinds()), np.zeros(env.num_envs)
            ways = self._explored(kinds)
            for layer in range(taken):
                _, rewards, *_ = env.step(self._actions(ways, layer))
                returns += rewards
            if taken == layers:
                self._tell(kinds, ways, returns)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The actions of the best ways at the coming layer, shape (lanes,).

        Raises:
            RuntimeError: Nothing was learnt or loaded, or `begin` was not called.
        """
        del observations
        if not self.tallies:
            raise RuntimeError("the agent has not learnt yet: call learn() or load() first")
        kinds = np.atleast_1d(self.env.kinds()).tolist()
        ways = np.array([self.best_way(kind) for kind in kinds])
        return self._actions(ways, self._next_layer(self._layers))

    def best_way(self, kind: str) -> int:
        """The way that has earned most on that kind; if it was never met, over all kinds.

        Its decimal digits are the actions, the first layer's first.
        """
        if kind in self.tallies:
            return int(self.tallies[kind].means.argmax())
        tallies = [*self.tallies.values()]
        # Weighted by how frequent the kinds are, not by where a way happened to be tried.
        weights = np.array([[tally.counts.sum()] for tally in tallies])
        means = np.stack([tally.means for tally in tallies])
        tried = np.isfinite(means)
        sums = (weights * np.where(tried, means, 0)).sum(0)
        shares = (weights * tried).sum(0)
        overall = np.full(len(sums), -np.inf)
        return int(np.divide(sums, shares, out=overall, where=shares > 0).argmax())

    def _explored(self, kinds: NDArray[np.str_]) -> NDArray[np.int64]:
        """Ways to go in training, shape (lanes,)."""
        ways, number = np.zeros(len(kinds), np.int64), ACTIONS**self._layers
        for kind in np.unique(kinds):
            tally = self.tallies.get(str(kind), _nothing_seen(number))
            lanes = np.flatnonzero(kinds == kind)
            untried = self._generator.permutation(np.flatnonzero(tally.counts == 0))[: len(lanes)]
            others = self._generator.integers(number, size=len(lanes) - len(untried))
            explores = self._generator.random(len(others)) < self.epsilon
            others[~explores] = tally.means.argmax()
            ways[lanes] = [*untried, *others]
        return ways

    def _tell(
        self, kinds: NDArray[np.str_], ways: NDArray[np.int64], returns: NDArray[np.float64]
    ) -> None:
        for kind, way, earned in zip(kinds.tolist(), ways, returns, strict=True):
            tally = self.tallies.setdefault(kind, _nothing_seen(ACTIONS**self._layers))
            tally.counts[way] += 1
            tally.totals[way] += earned

    def _actions(self, ways: NDArray[np.int64], layer: int) -> NDArray[np.int64]:
        return ways // ACTIONS ** (self._layers - 1 - layer) % ACTIONS

    def _state(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "layers": self._layers,
            "tallies": {
                kind: {"counts": tally.counts.tolist(), "totals": tally.totals.tolist()}
                for kind, tally in self.tallies.items()
            },
            "generator": self._generator.bit_generator.state,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epsilon, self._layers = state["epsilon"], state["layers"]
        self.tallies = {
            kind: Tally(np.array(tally["counts"], np.int64), np.array(tally["totals"], float))
            for kind, tally in state["tallies"].items()
        }
        self._generator.bit_generator.state = state["generator"]


def _nothing_seen(ways: int) -> Tally:
    return Tally(np.zeros(ways, np.int64), np.zeros(ways))
