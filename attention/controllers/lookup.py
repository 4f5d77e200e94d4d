"""Tables as frozen controllers: of states, and of clusters of what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spangym.attention.controllers.policy_heads import ObsNormalizer, PolicyHead
from spangym.attention.features import NUM_STATES
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.hashing import tuple_hash_states
from spangym.attention.observation_spec import ObservationSpec

GRID_STEPS, CLIP_STD = 1024.0, 128.0
"""Steps of the grid of clusters in a deviation, and deviations from the mean to its end."""


class LookupPolicy(PolicyHead):
    """The action of every state id.

    Args:
        observation: What is observed, encoded as ``state``.
        actions: Shape (9999,), integers 0..9.

    Raises:
        ValueError: They are not that.

    Example:
        >>> import torch
        >>> table = LookupPolicy(ObservationSpec(dims=4, encoding="state"), torch.arange(9999) % 10)
        >>> obs = torch.full((2, 8), 5.0).double()
        >>> table(obs, layer=torch.tensor([0])).tolist() == [hash((5,) * 8) % 9999 % 10] * 2
        True
    """

    head_type = "table"
    actions: Tensor

    def __init__(self, observation: ObservationSpec, actions: Tensor) -> None:
        super().__init__()
        if observation.encoding != "state":
            raise ValueError(
                f"a table reads state ids: encoding must be 'state', got {observation.encoding!r}"
            )
        _check_actions(actions, (NUM_STATES,))
        self.register_buffer("actions", actions.long())
        self.config = {}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look the sequences' states up; the layer is in their ids."""
        del layer
        return self.actions[tuple_hash_states(numbers.long())]

    @classmethod
    def from_tensors(
        cls, observation: ObservationSpec, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> LookupPolicy:
        """The table of these actions.

        Raises:
            ValueError: They are no actions of every state.
            KeyError: They are missing.
        """
        del config
        return cls(observation, tensors["actions"])


class KMeansPolicy(PolicyHead):
    """The action of the nearest of some centers: see `spangym.agents.KMeansDiscretizer`.

    Numbers are standardized and put on a grid on which float64 holds all distances exactly, so that
    the nearest center, and of several the lowest, is the same on every device.

    Args:
        observation: What is observed, not encoded as ``state``.
        means: Of the numbers, float64 of shape (numbers,).
        scales: Theirs, likewise.
        centers: In whole steps of the grid, float64 of shape (layers, clusters, numbers).
        actions: Of the centers, integers 0..9 of shape (layers * clusters,).
        by_layer: Whether each layer has centers of its own; its index is then no number among the
            others.

    Raises:
        ValueError: They do not go together.

    Example:
        >>> import torch
        >>> observation = ObservationSpec(dims=4, encoding="features", pool_groups=1)
        >>> centers = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]).double() * GRID_STEPS
        >>> one = torch.ones(2).double()
        >>> table = KMeansPolicy(observation, one * 0, one, centers, torch.tensor([3, 8]), False)
        >>> obs = torch.tensor([[0.1, 0.9], [0.1, 1.1]]).double()
        >>> table(obs, layer=torch.tensor([0])).tolist()
        [3, 8]
    """

    head_type = "clusters"
    means: Tensor
    scales: Tensor
    centers: Tensor
    actions: Tensor

    def __init__(
        self,
        observation: ObservationSpec,
        means: Tensor,
        scales: Tensor,
        centers: Tensor,
        actions: Tensor,
        by_layer: bool,
    ) -> None:
        super().__init__()
        if observation.encoding == "state":
            raise ValueError("a state id has no distances: encoding must be another than 'state'")
        if by_layer and not observation.include_layer_index:
            raise ValueError("centers of each layer need observations that end with its index")
        numbers = len(observation.nvec) - by_layer
        layers = observation.num_layers if by_layer else 1
        shapes = [tuple(each.shape) for each in (means, scales, centers)]
        if shapes != [(numbers,), (numbers,), (layers, *shapes[2][1:2], numbers)]:
            raise ValueError(
                f"means, scales and centers are of shapes {shapes}, the observation needs "
                f"({numbers},), ({numbers},) and ({layers}, clusters, {numbers})"
            )
        _check_actions(actions, (layers * centers.shape[1],))
        self.by_layer = by_layer
        self.encoder = ObsNormalizer(observation)
        tensors = {"means": means, "scales": scales, "centers": centers}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.double())
        self.register_buffer("actions", actions.long())
        self.config = {"by_layer": by_layer}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look up the actions of the nearest centers."""
        rows = self.encoder(numbers).double()
        if self.by_layer:
            rows = rows[:, :-1]
        layer = layer * self.by_layer
        centers = self.centers.index_select(0, layer)[0]
        standardized = ((rows - self.means) / self.scales).clamp(-CLIP_STD, CLIP_STD)
        points = (standardized * GRID_STEPS).round()
        nearest = (points[:, None] - centers).square().sum(-1).argmin(-1)
        return self.actions[layer * len(centers) + nearest]

    @classmethod
    def from_tensors(
        cls, observation: ObservationSpec, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> KMeansPolicy:
        """The table whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        return cls(
            observation,
            tensors["means"],
            tensors["scales"],
            tensors["centers"],
            tensors["actions"],
            config["by_layer"],
        )


def _check_actions(actions: Tensor, shape: tuple[int, ...]) -> None:
    if actions.shape != shape or actions.dtype.is_floating_point:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)} and type {actions.dtype}; they must be "
            f"integers of shape {shape}"
        )
    if ((actions < 0) | (actions >= NUM_ACTIONS)).any():
        raise ValueError(f"actions must be in 0..{NUM_ACTIONS - 1}")
