"""The interface between layers and agents: what can control the span of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from spangym.attention.features import MAX_STATES, NUM_STATES
from spangym.attention.geometry import MAX_ACTIONS, NUM_ACTIONS
from spangym.utils.scalars import as_int

ObservationTime = Literal["current", "previous"]
"""Input of a stream that an action depends on."""


@runtime_checkable
class SpanController(Protocol):
    """Chooses spans from states and learns from the results: the ``refiner`` of a layer.

    The original controller is the tabular `spangym.agents.Refiner`. A controller that explores
    has another method, ``greedy_action(state)``; a layer in eval mode calls it if it exists.

    A controller may have two integer attributes, which mean what they mean in the original:
    ``actions``, the number of its actions, of which action ``a`` asks for the fraction
    ``a / (actions - 1)`` of the span; and ``states``, the number of its states: ids are taken
    modulo ``states - 1``. Without them there are 10 actions and 10,000 states.
    """

    def choose_action(self, state: int) -> int:
        """Choose an action, 0 (off) to ``actions - 1`` (full), in a state of the layer's input."""
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
    as well. Nothing is copied to the host, and a pass may call it twice. It may have an attribute
    ``num_actions``, the number of its actions; there are 10 without it.
    """

    @property
    def observation_time(self) -> ObservationTime:
        """The observed input, the ``current`` one, or the ``previous`` one of the stream.

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
        """Choose actions in ``0..num_actions - 1``, integers of shape (batch,).

        ``obs`` is the result of `observe`.
        """
        ...

    def check(self, dims: int, action_scale: str) -> None:
        """Refuse a layer that this controller does not fit; called on assignment.

        Raises:
            ValueError: The width or the action scale does not fit; the message says why.
        """
        ...


Controller = SpanController | BatchController


def num_actions_of(controller: object) -> int:
    """Number of a controller's actions: its ``actions`` or ``num_actions``, 10 without.

    Raises:
        ValueError: The attribute is an integer outside 2..1000.

    Example:
        >>> from spangym.agents import Refiner
        >>> num_actions_of(Refiner(actions=5)), num_actions_of(None)
        (5, 10)
    """
    name = "num_actions" if isinstance(controller, BatchController) else "actions"
    return _count(controller, name, NUM_ACTIONS, MAX_ACTIONS)


def num_states_of(controller: object) -> int:
    """Number of a controller's states: its ``states``, 10,000 without.

    Raises:
        ValueError: The attribute is an integer outside 2..1,000,000.
    """
    if isinstance(controller, BatchController):
        return NUM_STATES
    return _count(controller, "states", NUM_STATES, MAX_STATES)


def _count(controller: object, name: str, default: int, largest: int) -> int:
    count = getattr(controller, name, None)
    # A controller may keep something else under this name, such as a list of what it was asked.
    if not isinstance(count, Integral) or isinstance(count, bool):
        return default
    return as_int(f"{type(controller).__name__}.{name}", count, 2, largest)
