"""Copies, states and lookahead: the methods that all interfaces of the environment share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from spangym.envs.core import EpisodeCore
from spangym.envs.lookahead import action_coverages, lookahead, one_step_rewards, predictor_action
from spangym.envs.soft_span import soft_span_loss


class BatchedEnvMixin:
    """Methods on top of `EpisodeCore`; none of the queries changes the environment.

    Queries return arrays, or lists, whose first dimension is the environment. The scalar
    `SpanControlEnv` returns the same without that dimension.

    Attributes:
        core: The core that runs the environments.
        action_space: Action space, with a random generator of its own.
    """

    core: EpisodeCore
    action_space: Any
    _generators: list[np.random.Generator]
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> Any:
        """Specification that Gymnasium made the environment from; None if it did not.

        Its ``max_episode_steps`` is the length of an episode, which depends on the arguments.
        """
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and spec.max_episode_steps is None:
            spec = copy.copy(spec)
            spec.max_episode_steps = self.core.episode_length
        self._spec = spec

    def _unbatch(self, values: Any) -> Any:
        return values

    def content_type(self) -> Any:
        """Content type of the chunk that the next action is for, as later in ``info``.

        Raises:
            RuntimeError: No episode is running; so do the other queries.
        """
        return self._unbatch(self.core.content_types)

    def peek(self) -> Any:
        """Reward of each action at the next step, float32 of shape (num_envs, actions).

        Actions are ordered as by `spangym.envs.core.EpisodeCore.all_actions`.
        """
        return self._unbatch(one_step_rewards(self.core))

    def lookahead(self, beam: int = 10) -> Any:
        """Best return of each action up to the chunk's end, float32 (num_envs, actions).

        It is exact for up to two remaining layers, beyond that a beam search: see
        `spangym.envs.lookahead.lookahead`.
        """
        return self._unbatch(lookahead(self.core, beam))

    def action_coverages(self) -> Any:
        """Share of full attention's weight within the span of each action, (num_envs, actions)."""
        return self._unbatch(action_coverages(self.core))

    def predictor_action(self) -> Any:
        """Action nearest to the span that the next layer predicts, int64 of shape (num_envs,)."""
        return self._unbatch(predictor_action(self.core))

    def output_observations(self) -> Any:
        """The local output of the last step, encoded as an observation; one row per environment.

        The original bootstraps on it. It is still available right after the end of an episode.

        Raises:
            RuntimeError: No step was taken yet.
        """
        return self._unbatch(self.core.output_observations())

    def soft_span_loss(self, scales: Tensor) -> Tensor:
        """Loss of the next chunk as a function of the layers' spans, shape (num_envs,).

        See `spangym.envs.soft_span.soft_span_loss`.

        Args:
            scales: Fractions of the longest span, floating of shape (layers,), in [0, 1].
        """
        return self._unbatch(soft_span_loss(self.core, scales))

    def fork(self) -> Self:
        """Make an independent copy in the same state, on the same live layers."""
        other = copy.copy(self)
        other.core = self.core.fork()
        other._generators = copy.deepcopy(self._generators)
        other.action_space = copy.deepcopy(self.action_space)
        return other

    def state_dict(self) -> dict[str, Any]:
        """Everything that running changes, as nested dicts of tensors and JSON values.

        The weights of the layers are not included.
        """
        states = [generator.bit_generator.state for generator in self._generators]
        return {**self.core.state_dict(), "generators": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue, bit-exactly, from where `state_dict` was called.

        Raises:
            ValueError: The state is of an environment with other arguments.
        """
        self.core.load_state_dict(state_dict)
        generators = [np.random.default_rng() for _ in state_dict["generators"]]
        for generator, state in zip(generators, state_dict["generators"], strict=True):
            generator.bit_generator.state = state
        self._generators = generators
