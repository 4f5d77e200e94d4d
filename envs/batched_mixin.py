"""What the faces of many lanes have in common beside stepping."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import Simulator
from spangym.envs.lookahead import coverages, lookahead, peek, predicted_actions
from spangym.envs.soft_span import soft_bits


class Lanes:
    """Lanes that can be copied, kept, and asked what would be; a base of the vector faces.

    Nothing that is asked changes anything.

    Attributes:
        simulator: What runs them.
        action_space: Space of all lanes' actions, with a generator of its own.
    """

    simulator: Simulator
    action_space: Any
    _generators: list[np.random.Generator]

    def fork(self) -> Self:
        """An environment that goes on from here by itself, on the same live layers."""
        other = copy.copy(self)
        other.simulator = self.simulator.fork()
        other._generators = copy.deepcopy(self._generators)
        other.action_space = copy.deepcopy(self.action_space)
        return other

    def kinds(self) -> list[str]:
        """What the chunk is that is decided on next, one a lane: its ``info["source"]``.

        Raises:
            RuntimeError: No episode has begun.
        """
        return self.simulator.kinds

    def peek(self) -> NDArray[np.float32]:
        """The reward of each action for the coming decision, shape (lanes, actions).

        Actions are ordered as by `spangym.envs.lookahead.choices`.

        Raises:
            RuntimeError: No episode has begun.
        """
        return peek(self.simulator)

    def lookahead(self, beam: int = 10) -> NDArray[np.float32]:
        """The best return of each action up to the end of the chunk, shape (lanes, actions).

        See `spangym.envs.lookahead.lookahead`: exact up to two layers from here, a beam beyond.

        Raises:
            RuntimeError: No episode has begun.
        """
        return lookahead(self.simulator, beam)

    def coverages(self) -> NDArray[np.float32]:
        """The share of full attention's weight within the span that each action would give.

        Returns:
            Shape (lanes, actions), for the coming decision, ordered as by `peek`.

        Raises:
            RuntimeError: No episode has begun.
        """
        return coverages(self.simulator)

    def predicted_actions(self) -> NDArray[np.int64]:
        """The span whose scale is nearest to what the coming layer predicts, shape (lanes,).

        Raises:
            RuntimeError: No episode has begun.
        """
        return predicted_actions(self.simulator)

    def output_observations(self) -> NDArray[Any]:
        """The local output of the last decision, encoded as its local input is; a row a lane.

        It is there right after a step, also where that has ended the episode: the state that the
        original bootstraps on.

        Raises:
            RuntimeError: Nothing was decided yet.
        """
        return self.simulator.output_observations()

    def soft_bits(self, scales: Tensor) -> Tensor:
        """The coming chunk's loss in bits a target if spans had a soft edge, differentiable.

        See `spangym.envs.soft_span.soft_bits`.

        Args:
            scales: Shares of the longest span, floating of shape (layers,), in [0, 1].

        Returns:
            Shape (lanes,).

        Raises:
            ValueError: There is no task, or the scales are not that.
            RuntimeError: No chunk begins here.
        """
        return soft_bits(self.simulator, scales)

    def state_dict(self) -> dict[str, Any]:
        """All that changes in the environment, as tensors and what JSON can hold."""
        states = [generator.bit_generator.state for generator in self._generators]
        return {**self.simulator.state_dict(), "generators": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on, to the bit, from where `state_dict` was called.

        Raises:
            ValueError: It is of an environment with other arguments or lanes.
        """
        self.simulator.load_state_dict(state_dict)
        self._generators = [np.random.default_rng() for _ in state_dict["generators"]]
        for generator, state in zip(self._generators, state_dict["generators"], strict=True):
            generator.bit_generator.state = state
