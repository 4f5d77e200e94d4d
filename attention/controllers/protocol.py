"""The interface between layers and agents: what can control the span of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

ObservationTime = Literal["current", "previous"]
"""Input of a stream that an action depends on."""


@runtime_checkable
class SpanController(Protocol):
    """Chooses spans from states and learns from the results: the ``refiner`` of a layer.

    The original controller is the tabular `spangym.agents.Refiner`. A controller that explores
    has another method, ``greedy_action(state)``; a layer in eval mode calls it if it exists.
    """

    def choose_action(self, state: int) -> int:
        """Choose an action, 0 (off) to 9 (full), in the state of the layer's normalized input."""
        ...

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Learn from one transition; the next state is that of the next decision."""
        ...


@runtime_checkable
class StatefulController(SpanController, Protocol):
    """A controller that is saved and loaded with its layer's ``state_dict``.

    A controller that is a `torch.nn.Module` does not need it.
    """

    def state_dict(self) -> Mapping[str, Tensor]:
        """The learned state as tensors."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Restore the result of `state_dict`.

        Raises:
            KeyError: An entry is missing.
            ValueError: The state does not fit this controller.
        """
        ...


@runtime_checkable
class BatchController(Protocol):
    """Chooses the actions of all sequences on the device, and never learns in the layer.

    `spangym.attention.load_controller` returns one; a module of the user with these methods works
    as well. Nothing is copied to the host, and a pass may call it twice.
    """

    @property
    def observation_time(self) -> ObservationTime:
        """The observed input: the ``current`` one, or the ``previous`` one of the stream.

        The layer's cache holds the previous one; without a cache the first token is observed.
        """
        ...

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """Compute the observation of an input, batch first.

        Args:
            features: Means, then variances, shape (batch, 2 * dims), detached.
            local_input: The layer's normalized input, shape (batch, tokens, dims), detached.
            lengths: Number of unpadded tokens of each sequence, shape (batch,); all if None.
        """
        ...

    def actions(self, obs: Tensor) -> Tensor:
        """Choose actions in 0..9 from the result of `observe`, integers of shape (batch,)."""
        ...

    def check(self, dims: int, action_scale: str) -> None:
        """Refuse a layer that this controller does not fit; called on assignment.

        Raises:
            ValueError: The width or the action scale does not fit; the message says why.
        """
        ...


Controller = SpanController | BatchController
