"""The seam between layers and agents: whatever has these two methods can control a layer's span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor


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
            state: State id of the layer's normalised input.

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
class StoredController(SpanController, Protocol):
    """A controller whose knowledge is saved and loaded with its layer's ``state_dict``.

    A controller that is a `torch.nn.Module` needs none of this: torch stores it.
    """

    def state_dict(self) -> Mapping[str, Tensor]:
        """All that was learnt, as tensors."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object:
        """Put what `state_dict` gave in place of what was learnt here.

        Raises:
            KeyError: Something is missing.
            ValueError: It does not fit.
        """
        ...
