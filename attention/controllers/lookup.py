"""Tables as frozen controllers: of states, and of clusters of what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spangym.attention.controllers.policy_heads import Head, Numbers
from spangym.attention.features import STATES
from spangym.attention.geometry import ACTIONS
from spangym.attention.hashing import hashed_states
from spangym.attention.observation_spec import Observation

GRID, FARTHEST = 1024.0, 128.0
"""Steps of the grid of clusters in a deviation, and deviations from the mean to its end."""


class Table(Head):
    """The action of every state id.

    Args:
        observation: What is observed, encoded as ``state``.
        actions: Shape (9999,), integers 0..9.

    Raises:
        ValueError: They are not that.

    Example:
        >>> import torch
        >>> table = Table(Observation(dims=4, encoding="state"), torch.arange(9999) % 10)
        >>> seen = torch.full((2, 8), 5.0).double()
        >>> table(seen, layer=torch.tensor([0])).tolist() == [hash((5,) * 8) % 9999 % 10] * 2
        True
    """

    kind = "table"
    actions: Tensor

    def __init__(self, observation: Observation, actions: Tensor) -> None:
        super().__init__()
        if observation.encoding != "state":
            raise ValueError(
                f"a table reads state ids: encoding must be 'state', got {observation.encoding!r}"
            )
        _check_actions(actions, (STATES,))
        self.register_buffer("actions", actions.long())
        self.settings = {}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look the lanes' states up; the layer is in their ids."""
        del layer
        return self.actions[hashed_states(numbers.long())]

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> Table:
        """The table of these actions.

        Raises:
            ValueError: They are no actions of every state.
            KeyError: They are missing.
        """
        del settings
        return cls(observation, tensors["actions"])


class ClusterTable(Head):
    """The action of the nearest of some centres: see `spangym.agents.Clusters`.

    Numbers are standardised and put on a grid on which float64 holds all distances exactly, so that
    the nearest centre, and of several the lowest, is the same on every device.

    Args:
        observation: What is observed, not encoded as ``state``.
        means: Of the numbers, float64 of shape (numbers,).
        scales: Theirs, likewise.
        centres: In whole steps of the grid, float64 of shape (layers, clusters, numbers).
        actions: Of the centres, integers 0..9 of shape (layers * clusters,).
        by_layer: Whether each layer has centres of its own; its index is then no number among the
            others.

    Raises:
        ValueError: They do not go together.

    Example:
        >>> import torch
        >>> observation = Observation(dims=4, encoding="features", groups=1)
        >>> centres = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]).double() * GRID
        >>> one = torch.ones(2).double()
        >>> table = ClusterTable(observation, one * 0, one, centres, torch.tensor([3, 8]), False)
        >>> seen = torch.tensor([[0.1, 0.9], [0.1, 1.1]]).double()
        >>> table(seen, layer=torch.tensor([0])).tolist()
        [3, 8]
    """

    kind = "clusters"
    means: Tensor
    scales: Tensor
    centres: Tensor
    actions: Tensor

    def __init__(
        self,
        observation: Observation,
        means: Tensor,
        scales: Tensor,
        centres: Tensor,
        actions: Tensor,
        by_layer: bool,
    ) -> None:
        super().__init__()
        if observation.encoding == "state":
            raise ValueError("a state id has no distances: encoding must be another than 'state'")
        if by_layer and not observation.layer_index:
            raise ValueError("centres of each layer need observations that end with its index")
        numbers = len(observation.sizes) - by_layer
        layers = observation.layers if by_layer else 1
        shapes = [tuple(each.shape) for each in (means, scales, centres)]
        if shapes != [(numbers,), (numbers,), (layers, *shapes[2][1:2], numbers)]:
            raise ValueError(
                f"means, scales and centres are of shapes {shapes}, the observation needs "
                f"({numbers},), ({numbers},) and ({layers}, clusters, {numbers})"
            )
        _check_actions(actions, (layers * centres.shape[1],))
        self.by_layer = by_layer
        self.read = Numbers(observation)
        tensors = {"means": means, "scales": scales, "centres": centres}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.double())
        self.register_buffer("actions", actions.long())
        self.settings = {"by_layer": by_layer}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look up the actions of the nearest centres."""
        rows = self.read(numbers).double()
        if self.by_layer:
            rows = rows[:, :-1]
        layer = layer * self.by_layer
        centres = self.centres.index_select(0, layer)[0]
        standardised = ((rows - self.means) / self.scales).clamp(-FARTHEST, FARTHEST)
        points = (standardised * GRID).round()
        nearest = (points[:, None] - centres).square().sum(-1).argmin(-1)
        return self.actions[layer * len(centres) + nearest]

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> ClusterTable:
        """The table whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        return cls(
            observation,
            tensors["means"],
            tensors["scales"],
            tensors["centres"],
            tensors["actions"],
            settings["by_layer"],
        )


def _check_actions(actions: Tensor, shape: tuple[int, ...]) -> None:
    if actions.shape != shape or actions.dtype.is_floating_point:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)} and type {actions.dtype}; they must be "
            f"integers of shape {shape}"
        )
    if ((actions < 0) | (actions >= ACTIONS)).any():
        raise ValueError(f"actions must be in 0..{ACTIONS - 1}")
