"""LearnedSpanAgent: one span per layer, learned by gradient, independent of the input.

Sukhbaatar et al., Adaptive Attention Span in Transformers, 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.agents.baselines.env_aware import EnvAwarePolicy, num_layers_of
from spangym.utils.scalars import as_float

_MIN_SCALE = 1e-3
"""Lower bound of span scales: at 0 the local path is off and has no gradient."""


class LearnedSpanAgent(EnvAwarePolicy):
    """Learns one span scale per layer by gradient descent, with soft spans.

    Each training chunk gives one step of Adam on the mean loss in bits plus ``cost_coef`` times the
    mean span scale. The nearest actions are played. Scales start at 1, where no key is masked. The
    agent is deterministic, and needs ``action_scale="absolute"``.

    Args:
        cost_coef: Cost of a mean span scale of 1 in bits, at least 0; if None, the environment's
            cost of query-key pairs, whose share grows with the scale from 0 to 1.
        learning_rate: Learning rate of Adam, about the change of a scale per chunk.

    Example:
        >>> from spangym.envs import SB3SpanControlVecEnv, make_config
        >>> config = make_config("LongRange-v0", {"chunks_per_episode": 2})
        >>> env = SB3SpanControlVecEnv(config, n_envs=2)
        >>> _ = env.seed(0)
        >>> agent = LearnedSpanAgent(cost_coef=10.0, learning_rate=0.1)
        >>> agent.learn(env, 8)
        >>> [round(scale, 1) for scale in agent.scales.tolist()]
        [0.8, 0.8]
    """

    saved = ("cost_coef", "learning_rate")

    def __init__(self, cost_coef: float | None = None, learning_rate: float = 0.01) -> None:
        self.cost_coef = None if cost_coef is None else as_float("cost_coef", cost_coef, 0)
        self.learning_rate = as_float("learning_rate", learning_rate, 0)
        self.scales = torch.empty(0)
        """Learned span scales, float32 (layers,)."""

    def learn(self, env: VecEnv, steps: int) -> None:
        """Train for ``steps`` steps over all environments, which must have a loss."""
        num_layers, cost_coef = num_layers_of(env), self.cost_coef
        if cost_coef is None:
            cost_coef = env.get_attr("config")[0].mean_cost_coef
        if not len(self.scales):
            self.scales = torch.ones(num_layers)
        if len(self.scales) != num_layers:
            trained = len(self.scales)
            raise ValueError(f"the agent was trained with {trained} layers, not {num_layers}")
        observations = self._reset(env)
        optimizer = torch.optim.Adam([self.scales.requires_grad_()], self.learning_rate)
        for step in range(steps // env.num_envs):
            if step % num_layers == 0:
                loss = self.env.soft_span_loss(self.scales).mean().cpu()
                loss = loss + cost_coef * self.scales.mean()
                # The gradients of live layers belong to their own training.
                (self.scales.grad,) = torch.autograd.grad(loss, self.scales)
                optimizer.step()
                with torch.no_grad():
                    self.scales.clamp_(_MIN_SCALE, 1)
            observations, *_ = env.step(self.predict(observations))
        self.scales, self._env = self.scales.detach(), None

    def predict(self, observations: Any) -> NDArray[np.int64]:
        """Return the actions nearest to the next layer's scale, shape (num_envs,)."""
        if not len(self.scales):
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        scale = self.scales[self._next_layer(len(self.scales))].item()
        return np.full(len(observations), round((self._num_actions - 1) * scale))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return super().state_dict() | {"scales": self.scales.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        super().load_state_dict(state | {"scales": torch.tensor(state["scales"])})
