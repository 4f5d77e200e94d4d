"""The seam between layers and agents: what can control a layer's span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

ObservationTime = Literal["current", "previous"]
"""Which input of a stream a decision is made from."""


@runtime_checkable
class SpanController(Protocol):
    """Chooses spans from states and learns from what they led to.

    A layer holds its controller as ``layer.refiner``; an environment's agent may wrap one. The
    original controller is the tabular `spangym.agents.Refiner`.

    A controller that explores has one more method, ``greedy_action(state)``: what it thinks best.
    A layer in eval mode asks that, where there is one.
    """

    def choose_action(self, state: int) -> int:
        """Choose a span.

        Args:
            state: State id of the layer's normalized input.

        Returns:
            The action, 0 (local path off) to 9 (all of the predicted span).
        """
        ...

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        """Learn from one decision.

        Args:
            state: State in which the action was chosen.
            action: The action.
            reward: What it earned.
            next_state: State in which the next decision falls.
        """
        ...


@runtime_checkable
class StatefulController(SpanController, Protocol):
    """A controller whose knowledge is saved and loaded with its layer's ``state_dict``.

    A controller that is a `torch.nn.Module` needs none of this: torch stores it.
    """

    def state_dict(self) -> Mapping[str, Tensor]:
        """All that was learned, as tensors."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Put what `state_dict` gave in place of what was learned here.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit.
        """
        ...


@runtime_checkable
class BatchController(Protocol):
    """Decides for all sequences at once where the tensors are, and never learns in the layer.

    `spangym.attention.load_controller` gives one; so is a module of the user's with these methods.
    Nothing is copied to the host, and a pass may ask twice.
    """

    @property
    def observation_time(self) -> ObservationTime:
        """What a decision is made from.

        The ``current`` input, or the ``previous`` one of the stream, which the layer's cache holds;
        where there is none, the first token.
        """
        ...

    def observe(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """What is to be known of an input for a decision.

        Args:
            features: Its means and variances, shape (batch, 2 * dims), detached.
            local_input: The layer's normalized input, shape (batch, tokens, dims), detached.
            lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

        Returns:
            Batch first.
        """
        ...

    def actions(self, obs: Tensor) -> Tensor:
        """Decide.

        Args:
            obs: What `observe` gave.

        Returns:
            Actions in 0..9, integers of shape (batch,), on the same device.
        """
        ...

    def check(self, dims: int, action_scale: str) -> None:
        """Refuse a layer that this cannot decide for; called as it is assigned.

        Args:
            dims: Width of the layer.
            action_scale: What its actions are shares of: ``relative`` or ``absolute``.

        Raises:
            ValueError: The message says why.
        """
        ...


Controller = SpanController | BatchController
"""What may be a layer's ``refiner``."""
