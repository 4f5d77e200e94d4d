"""Spans learned by gradient, one for each layer, the same whatever is read.

Sukhbaatar et al., Adaptive Attention Span in Transformers, 2019.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.baselines.env_aware import EnvAwarePolicy, num_layers_of
from spangym.attention import NUM_ACTIONS

_MIN_SCALE = 1e-3
"""The least scale: at 0 the local path is off, has no gradient and would never be on again."""


class LearnedSpanAgent(EnvAwarePolicy):
    """A span for each layer, learned by gradient through a soft edge with a price on its length.

    Every chunk of the training is a step of Adam on the mean loss in bits plus ``price`` times the
    mean span scale; meanwhile, and ever after, the nearest actions are played. Spans begin at the
    longest, where nothing is lost, and shrink as far as it pays.

    It draws nothing at random, and needs layers whose actions are shares of the longest span.

    Args:
        cost_coef: What a mean span scale of 1 costs, in bits, at least 0. If None it is the
            environment's own price of visited keys: their share rises from 0 to 1 as the scale
            does, if faster at first.
        learning_rate: Of Adam: about so much a scale changes in a chunk. The default crosses the
            range in a hundred chunks.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> from spangym.envs import SB3SpanControlVecEnv, make_config
        >>> env = SB3SpanControlVecEnv(make_config("LongRange-v0", {"chunks_per_episode": 2}), n_envs=2)
        >>> _ = env.seed(0)
        >>> agent = LearnedSpanAgent(cost_coef=10.0, learning_rate=0.1)
        >>> agent.learn(env, 8)
        >>> [round(scale, 1) for scale in agent.scales.tolist()]
        [0.8, 0.8]
    """

    def __init__(self, cost_coef: float | None = None, learning_rate: float = 0.01) -> None:
        for name, value in (("cost_coef", cost_coef), ("learning_rate", learning_rate)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")
        self.cost_coef = cost_coef
        self.learning_rate = learning_rate
        self.scales = torch.empty(0)
        """What was learned: shares of the longest span, float32 of shape (layers,)."""

    def learn(self, env: VecEnv, steps: int) -> None:
        """Go down the gradient for so many steps, over all environments together.

        Raises:
            ValueError: The environment has no task, or other layers than were learned with.
        """
        layers = num_layers_of(env)
        if not len(self.scales):
            self.scales = torch.ones(layers)
        if len(self.scales) != layers:
            raise ValueError(f"what was learned is of {len(self.scales)} layers, not of {layers}")
        cost_coef = (
            env.get_attr("config")[0].cost_coef if self.cost_coef is None else self.cost_coef
        )
        observations = self._reset(env)
        optimizer = torch.optim.Adam([self.scales.requires_grad_()], self.learning_rate)
        for step in range(steps // env.num_envs):
            if step % layers == 0:
                self._gradient_step(optimizer, cost_coef)
            observations, *_ = env.step(self.predict(np.asarray(observations)))
        self.scales, self._env = self.scales.detach(), None

    def predict(self, observations: NDArray[Any]) -> NDArray[np.int64]:
        """The action nearest to the coming layer's scale, once per environment.

        Raises:
            RuntimeError: Nothing was learned or loaded, or `on_episode_start` was not called.
        """
        if not len(self.scales):
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        scale = self.scales[self._next_layer(len(self.scales))].item()
        return np.full(len(observations), round((NUM_ACTIONS - 1) * scale))

    def _gradient_step(self, optimizer: torch.optim.Optimizer, cost_coef: float) -> None:
        loss = self.env.soft_span_loss(self.scales).mean().cpu() + cost_coef * self.scales.mean()
        # The layers may be live ones that learn too: their gradients are none of ours.
        (self.scales.grad,) = torch.autograd.grad(loss, self.scales)
        optimizer.step()
        with torch.no_grad():
            self.scales.clamp_(_MIN_SCALE, 1)

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, ready for JSON."""
        return {
            "cost_coef": self.cost_coef,
            "learning_rate": self.learning_rate,
            "scales": self.scales.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.cost_coef, self.learning_rate = state["cost_coef"], state["learning_rate"]
        self.scales = torch.tensor(state["scales"])
