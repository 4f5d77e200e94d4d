"""What the faces of many environments have in common beside stepping."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import SpanControlCore
from spangym.envs.lookahead import action_coverages, lookahead, one_step_rewards, predictor_action
from spangym.envs.soft_span import soft_span_loss


class BatchedEnvMixin:
    """Environments that can be copied, kept, and asked what would be; a base of the vector faces.

    Nothing that is asked changes anything.

    Attributes:
        core: What runs them.
        action_space: Space of all environments' actions, with a generator of its own.
    """

    core: SpanControlCore
    action_space: Any
    _generators: list[np.random.Generator]

    def fork(self) -> Self:
        """An environment that goes on from here by itself, on the same live layers."""
        other = copy.copy(self)
        other.core = self.core.fork()
        other._generators = copy.deepcopy(self._generators)
        other.action_space = copy.deepcopy(self.action_space)
        return other

    def content_type(self) -> list[str]:
        """What the chunk is that is decided on next, one per environment: its ``info["content_type"]``.

        Raises:
            RuntimeError: No episode has begun.
        """
        return self.core.content_types

    def one_step_rewards(self) -> NDArray[np.float32]:
        """The reward of each action for the coming decision, shape (num_envs, actions).

        Actions are ordered as by `spangym.envs.lookahead.all_actions`.

        Raises:
            RuntimeError: No episode has begun.
        """
        return one_step_rewards(self.core)

    def lookahead(self, beam: int = 10) -> NDArray[np.float32]:
        """The best return of each action up to the end of the chunk, shape (num_envs, actions).

        See `spangym.envs.lookahead.lookahead`: exact up to two layers from here, a beam beyond.

        Raises:
            RuntimeError: No episode has begun.
        """
        return lookahead(self.core, beam)

    def action_coverages(self) -> NDArray[np.float32]:
        """The share of full attention's weight within the span that each action would give.

        Returns:
            Shape (num_envs, actions), for the coming decision, ordered as by `one_step_rewards`.

        Raises:
            RuntimeError: No episode has begun.
        """
        return action_coverages(self.core)

    def predictor_action(self) -> NDArray[np.int64]:
        """The span whose scale is nearest to what the coming layer predicts, shape (num_envs,).

        Raises:
            RuntimeError: No episode has begun.
        """
        return predictor_action(self.core)

    def output_observations(self) -> NDArray[Any]:
        """The local output of the last decision, encoded as its local input is; a row per environment.

        It is there right after a step, also where that has ended the episode: the state that the
        original bootstraps on.

        Raises:
            RuntimeError: Nothing was decided yet.
        """
        return self.core.output_observations()

    def soft_span_loss(self, scales: Tensor) -> Tensor:
        """The coming chunk's loss in bits a target if spans had a soft edge, differentiable.

        See `spangym.envs.soft_span.soft_span_loss`.

        Args:
            scales: Shares of the longest span, floating of shape (layers,), in [0, 1].

        Returns:
            Shape (num_envs,).

        Raises:
            ValueError: There is no task, or the scales are not that.
            RuntimeError: No chunk begins here.
        """
        return soft_span_loss(self.core, scales)

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold."""
        states = [generator.bit_generator.state for generator in self._generators]
        return {**self.core.state_dict(), "generators": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments or environments.
        """
        self.core.load_state_dict(state_dict)
        self._generators = [np.random.default_rng() for _ in state_dict["generators"]]
        for generator, state in zip(self._generators, state_dict["generators"], strict=True):
            generator.bit_generator.state = state
