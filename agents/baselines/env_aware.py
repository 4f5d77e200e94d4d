"""Policies that see more than an observation: they ask the environment that they play."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from spangym.agents.baselines.constant import ReferenceAgent
from spangym.attention import ACTIONS


class Foreseen(Protocol):
    """An environment that says what it is about to read, and what each action would do.

    Answers have a row a lane; an environment of a single lane may leave that dimension out. They
    are of the coming decision, and change nothing.
    """

    def kinds(self) -> list[str] | str:
        """What the chunk is."""
        ...

    def predicted_actions(self) -> Any:
        """The action nearest to the layer's own prediction, integers of shape (lanes,)."""
        ...

    def coverages(self) -> NDArray[np.floating[Any]]:
        """Share of full attention's weight within each action's span, (lanes, actions)."""
        ...

    def peek(self) -> NDArray[np.floating[Any]]:
        """The reward of each action, (lanes, actions)."""
        ...

    def lookahead(self, beam: int = 10) -> NDArray[np.floating[Any]]:
        """The best return of each action to the end of the chunk, (lanes, actions)."""
        ...

    def output_observations(self) -> NDArray[Any]:
        """What would be observed of the last decision's local output."""
        ...

    def soft_bits(self, scales: Tensor) -> Tensor:
        """The chunk's loss at those shares of the longest span, differentiable, (lanes,)."""
        ...


def layers_of(env: VecEnv) -> int:
    """How many layers an environment decides on in a chunk."""
    return env.get_attr("settings")[0].layers


class ForeseeingAgent(ReferenceAgent):
    """A policy that has to see the environment that it plays: `begin` shows it."""

    _env: Foreseen | None = None
    _decisions = 0

    def learn(self, env: VecEnv, steps: int) -> None:
        """Play for so many steps, over all lanes together."""
        super().learn(env, steps)
        # What is played next is another environment, and has to be shown first.
        self._env = None

    def begin(self, env: Any) -> None:
        """See the environment that is going to be played, after its reset.

        Args:
            env: A `Foreseen` environment.
        """
        self._env = env
        self._decisions = 0

    @property
    def env(self) -> Foreseen:
        """What is played.

        Raises:
            RuntimeError: It was not shown.
        """
        self._check_begun()
        return cast(Foreseen, self._env)

    def _check_begun(self) -> None:
        if self._env is None:
            raise RuntimeError(
                f"{type(self).__name__} has to see what it plays: call begin(env) after env.reset()"
            )

    def _next_layer(self, layers: int) -> int:
        """Index of the layer that is decided on now; decisions are counted from `begin` on."""
        self._check_begun()
        self._decisions += 1
        return (self._decisions - 1) % layers

    def _reset(self, env: VecEnv) -> Any:
        observations = super()._reset(env)
        self.begin(env)
        return observations

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        del state


class PredictorAgent(ForeseeingAgent):
    """No agent: the layers' own span predictors decide, as nearly as an action can."""

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The predicted actions, shape (lanes,)."""
        del observations
        return np.atleast_1d(self.env.predicted_actions())


class ThresholdAgent(ForeseeingAgent):
    """The smallest span that keeps so much of full attention's weight; the longest if none does.

    Args:
        target: The share of the weight to be kept, in [0, 1].

    Raises:
        ValueError: The target is none.

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = ThresholdAgent(target=0.0)
        >>> agent.begin(env)
        >>> agent.predict(observations).tolist()
        [0, 0]
    """

    def __init__(self, target: float = 0.9) -> None:
        if not 0 <= target <= 1:
            raise ValueError(f"target must be in [0, 1], got {target!r}")
        self.target = float(target)

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The first actions whose coverage is at least the target, shape (lanes,)."""
        del observations
        enough = np.atleast_2d(self.env.coverages()) >= self.target
        last = enough.shape[1] - 1
        return _actions(np.where(enough.any(1), enough.argmax(1), last), last + 1)

    def _state(self) -> dict[str, Any]:
        return {"target": self.target}

    def _restore(self, state: dict[str, Any]) -> None:
        self.target = state["target"]


class GreedyAgent(ForeseeingAgent):
    """The action that earns most at once, whatever follows.

    Example:
        >>> from spangym.envs import SpanControlVectorEnv
        >>> env = SpanControlVectorEnv(2, dims=8, heads=2, ctx=16, price=1.0)
        >>> observations, _ = env.reset(seed=0)
        >>> agent = GreedyAgent()
        >>> agent.begin(env)
        >>> agent.predict(observations).tolist() == env.peek().argmax(1).tolist()
        True
    """

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The best actions by `Foreseen.peek`, shape (lanes,); ties go to the lowest."""
        del observations
        return _best(self.env.peek())


class OracleAgent(ForeseeingAgent):
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
        """The best actions by `Foreseen.lookahead`, shape (lanes,); ties go to the lowest."""
        del observations
        return _best(self.env.lookahead(self.beam))

    def _state(self) -> dict[str, Any]:
        return {"beam": self.beam}

    def _restore(self, state: dict[str, Any]) -> None:
        self.beam = state["beam"]


def _best(returns: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    rows = np.atleast_2d(returns)
    return _actions(rows.argmax(1), rows.shape[1])


def _actions(chosen: NDArray[np.int64], columns: int) -> NDArray[np.int64]:
    """Actions by their columns, (lanes,); (lanes, 3) where keys and values are decided on too."""
    if columns == ACTIONS:
        return chosen
    # The span changes slowest.
    return np.stack(np.unravel_index(chosen, (ACTIONS, 2, 2)), axis=-1)
