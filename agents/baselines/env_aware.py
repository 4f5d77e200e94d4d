"""Policies that see more than an observation: they ask the environment that they play."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from spangym.agents.baselines.constant import BaselinePolicy
from spangym.attention import NUM_ACTIONS


class SupportsLookahead(Protocol):
    """An environment that says what it is about to read, and what each action would do.

    Answers have a row per environment; a scalar environment may leave that dimension out. They
    are of the coming decision, and change nothing.
    """

    def content_type(self) -> list[str] | str:
        """What the chunk is."""
        ...

    def predictor_action(self) -> Any:
        """The action nearest to the layer's own prediction, integers of shape (num_envs,)."""
        ...

    def action_coverages(self) -> NDArray[np.floating[Any]]:
        """Share of full attention's weight within each action's span, (num_envs, actions)."""
        ...

    def one_step_rewards(self) -> NDArray[np.floating[Any]]:
        """The reward of each action, (num_envs, actions)."""
        ...

    def lookahead(self, beam: int = 10) -> NDArray[np.floating[Any]]:
        """The best return of each action to the end of the chunk, (num_envs, actions)."""
        ...

    def output_observations(self) -> NDArray[Any]:
        """What would be observed of the last decision's local output."""
        ...

    def soft_span_loss(self, scales: Tensor) -> Tensor:
        """The chunk's loss at those shares of the longest span, differentiable, (num_envs,)."""
        ...


def num_layers_of(env: VecEnv) -> int:
    """How many layers an environment decides on in a chunk."""
    return env.get_attr("config")[0].num_layers


class EnvAwarePolicy(BaselinePolicy):
    """A policy that has to see the environment that it plays: `on_episode_start` shows it."""

    _env: SupportsLookahead | None = None
    _decisions = 0

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play for so many steps, over all environments together."""
        super().learn(env, steps)
        # What is played next is another environment, and has to be shown first.
        self._env = None

    def on_episode_start(self, env: Any) -> None:
        """See the environment that is going to be played, after its reset.

        Args:
            env: A `SupportsLookahead` environment.
        """
        self._env = env
        self._decisions = 0

    @property
    def env(self) -> SupportsLookahead:
        """What is played.

        Raises:
            RuntimeError: It was not shown.
        """
        self._require_env()
        return cast(SupportsLookahead, self._env)

    def _require_env(self) -> None:
        if self._env is None:
            raise RuntimeError(
                f"{type(self).__name__} has to see what it plays: call on_episode_start(env) after env.reset()"
            )

    def _next_layer(self, layers: int) -> int:
        """Index of the layer that is decided on now; decisions are counted from `on_episode_start` on."""
        self._require_env()
        self._decisions += 1
        return (self._decisions - 1) % layers

    def _reset(self, env: VecEnv) -> Any:
        observations = super()._reset(env)
        self.on_episode_start(env)
        return observations

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        del state


class SpanPredictorPolicy(EnvAwarePolicy):
    """No agent: the layers' own span predictors decide, as nearly as an action can."""

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The predicted actions, shape (num_envs,)."""
        del observations
        return np.atleast_1d(self.env.predictor_action())


class CoverageThresholdPolicy(EnvAwarePolicy):
    """The smallest span that keeps so much of full attention's weight; the longest if none does.

    Args:
        target: The share of the weight to be kept, in [0, 1].

    Raises:
        ValueError: The target is none.

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = CoverageThresholdPolicy(target=0.0)
        >>> agent.on_episode_start(env)
        >>> agent.predict(observations).tolist()
        [0, 0]
    """

    def __init__(self, target: float = 0.9) -> None:
        if not 0 <= target <= 1:
            raise ValueError(f"target must be in [0, 1], got {target!r}")
        self.target = float(target)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The first actions whose coverage is at least the target, shape (num_envs,)."""
        del observations
        enough = np.atleast_2d(self.env.action_coverages()) >= self.target
        last = enough.shape[1] - 1
        return _actions(np.where(enough.any(1), enough.argmax(1), last), last + 1)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {"target": self.target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.target = state["target"]


class MyopicPolicy(EnvAwarePolicy):
    """The action that earns most at once, whatever follows.

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16, cost_coef=1.0)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = MyopicPolicy()
        >>> agent.on_episode_start(env)
        >>> agent.predict(observations).tolist() == env.one_step_rewards().argmax(1).tolist()
        True
    """

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The best actions by `SupportsLookahead.one_step_rewards`, shape (num_envs,); ties go to the lowest."""
        del observations
        return _best(self.env.one_step_rewards())


class OracleAgent(EnvAwarePolicy):
    """The action that can earn most up to the end of the chunk.

    Args:
        beam: Ways of each first action that are followed beyond two layers, at least 1.

    Raises:
        ValueError: The beam is none.
    """

    def __init__(self, beam: int = 10) -> None:
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam!r}")
        self.beam = beam

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The best actions by `SupportsLookahead.lookahead`, shape (num_envs,); ties go to the lowest."""
        del observations
        return _best(self.env.lookahead(self.beam))

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {"beam": self.beam}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.beam = state["beam"]


def _best(returns: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    rows = np.atleast_2d(returns)
    return _actions(rows.argmax(1), rows.shape[1])


def _actions(chosen: NDArray[np.int64], columns: int) -> NDArray[np.int64]:
    """Actions by their columns, (num_envs,); (num_envs, 3) where keys and values are decided on too."""
    if columns == NUM_ACTIONS:
        return chosen
    # The span changes slowest.
    return np.stack(np.unravel_index(chosen, (NUM_ACTIONS, 2, 2)), axis=-1)
