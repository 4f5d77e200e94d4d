"""Baselines that ask the environment: the predictor, a coverage threshold, myopic and oracle."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from spangym.agents.baselines.constant import BaselinePolicy
from spangym.utils.scalars import as_float, as_int


class SupportsLookahead(Protocol):
    """An environment that answers questions about the next decision, without a side effect.

    Answers have one row per environment, which a scalar environment may omit.
    """

    def content_type(self) -> list[str] | str:
        """Content type of the current chunk."""
        ...

    def predictor_action(self) -> Any:
        """Action nearest to the layer's span predictor, integers (num_envs,)."""
        ...

    def action_coverages(self) -> NDArray[np.floating[Any]]:
        """Share of full attention's weight within the span of each action, (num_envs, actions)."""
        ...

    def peek(self) -> NDArray[np.floating[Any]]:
        """Reward of each action, (num_envs, actions)."""
        ...

    def lookahead(self, beam: int = 10) -> NDArray[np.floating[Any]]:
        """Best return of each action until the end of the chunk, (num_envs, actions)."""
        ...

    def output_observations(self) -> NDArray[Any]:
        """Observation of the last decision's local output."""
        ...

    def soft_span_loss(self, scales: Tensor) -> Tensor:
        """Differentiable loss of the chunk at span scales (layers,), shape (num_envs,)."""
        ...


def num_layers_of(env: VecEnv) -> int:
    """Return the number of layers of an environment."""
    return env.get_attr("config")[0].num_layers


class EnvAwarePolicy(BaselinePolicy):
    """A policy that asks the environment, which `on_episode_start` provides."""

    _env: SupportsLookahead | None = None
    _decisions = 0

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play ``steps`` steps over all environments."""
        super().learn(env, steps)
        # The next environment is another one.
        self._env = None

    def on_episode_start(self, env: Any) -> None:
        """Set the environment, a `SupportsLookahead`, after its reset."""
        super().on_episode_start(env)
        self._env = env
        self._decisions = 0

    @property
    def env(self) -> SupportsLookahead:
        """Current environment.

        Raises:
            RuntimeError: `on_episode_start` was not called.
        """
        if self._env is None:
            hint = "call on_episode_start(env) after env.reset()"
            raise RuntimeError(f"{type(self).__name__} needs its environment: {hint}")
        return self._env

    def _next_layer(self, num_layers: int) -> int:
        """Return the layer of the next decision, counted since `on_episode_start`."""
        assert self.env
        self._decisions += 1
        return (self._decisions - 1) % num_layers

    def _best_actions(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Return the actions of highest score; with cache control, (span, key, value) triples."""
        scores = np.atleast_2d(scores)
        best = scores.argmax(1)
        if scores.shape[1] == self._num_actions:
            return best
        # Columns are ordered with the span slowest.
        return np.stack(np.unravel_index(best, (self._num_actions, 2, 2)), axis=-1)


class SpanPredictorPolicy(EnvAwarePolicy):
    """The action nearest to the layer's own span predictor."""

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions, shape (num_envs,)."""
        del observations
        return np.atleast_1d(self.env.predictor_action())


class CoverageThresholdPolicy(EnvAwarePolicy):
    """The smallest span that covers a share of full attention's weight; if none does, the longest.

    Args:
        target: Share of the weight, in [0, 1].

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = CoverageThresholdPolicy(target=0.0)
        >>> agent.on_episode_start(env)
        >>> agent.predict(observations).tolist()
        [0, 0]
    """

    saved = ("target",)

    def __init__(self, target: float = 0.9) -> None:
        self.target = as_float("target", target, 0, 1)

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the first actions whose coverage reaches the target, shape (num_envs,)."""
        del observations
        sufficient = np.atleast_2d(self.env.action_coverages()) >= self.target
        sufficient[:, -1] = True
        return self._best_actions(sufficient)


class MyopicPolicy(EnvAwarePolicy):
    """The action with the highest immediate reward.

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16, cost_coef=1.0)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = MyopicPolicy()
        >>> agent.on_episode_start(env)
        >>> agent.predict(observations).tolist() == env.peek().argmax(1).tolist()
        True
    """

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the best actions, shape (num_envs,); ties go to the lowest."""
        del observations
        return self._best_actions(self.env.peek())


class OracleAgent(EnvAwarePolicy):
    """The action with the highest return until the end of the chunk.

    Args:
        beam: Number of action sequences to follow beyond two layers, at least 1.
    """

    saved = ("beam",)

    def __init__(self, beam: int = 10) -> None:
        self.beam = as_int("beam", beam, 1)

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the best actions, shape (num_envs,); ties go to the lowest."""
        del observations
        return self._best_actions(self.env.lookahead(self.beam))
