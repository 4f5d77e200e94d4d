"""Tables as heads of exported policies: actions by state id, and by the nearest cluster center."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spangym.attention.controllers.policy_heads import ObsNormalizer, PolicyHead, copied
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.observation_spec import ObservationSpec

GRID_STEPS, CLIP_STD = 1024.0, 128.0
"""Grid of standardized observations: steps in a standard deviation, and largest magnitude."""


class LookupPolicy(PolicyHead):
    """The action of every state id.

    Args:
        observation: The observation, with the encoding ``state``.
        actions: Integers in ``0..num_actions - 1``, shape (observation.num_state_ids,).
        num_actions: Number of actions.

    Raises:
        ValueError: The arguments do not fit one another.

    Example:
        >>> table = LookupPolicy(ObservationSpec(dims=4, encoding="state"), torch.arange(9999) % 10)
        >>> obs = torch.full((2, 8), 5.0).double()
        >>> table(obs, layer=torch.tensor([0])).tolist() == [hash((5,) * 8) % 9999 % 10] * 2
        True
    """

    head_type = "lookup"
    actions: Tensor

    def __init__(
        self, observation: ObservationSpec, actions: Tensor, num_actions: int = NUM_ACTIONS
    ) -> None:
        super().__init__()
        if observation.encoding != "state":
            raise ValueError(
                f"a table reads state ids: encoding must be 'state', got {observation.encoding!r}"
            )
        _check_actions(actions, (observation.num_state_ids,), num_actions)
        self.observation, self.num_actions = observation, num_actions
        self.register_buffer("actions", copied(actions, torch.int64))

    def __repr__(self) -> str:
        return f"LookupPolicy({len(self.actions)} states, {self.num_actions} actions)"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, except the observation."""
        return {"actions": self.actions, "num_actions": self.num_actions}

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Look up the actions of the states, whose ids depend on the layer."""
        del layer  # The numbers contain it.
        return self.actions[self.observation.state_ids(numbers)]


class KMeansPolicy(PolicyHead):
    """The action of the nearest cluster center: see `spangym.agents.KMeansDiscretizer`.

    Numbers are standardized and rounded to a grid on which float64 represents all squared distances
    exactly. The nearest center, the lowest of several, is therefore the same on every device.

    Args:
        observation: The observation, with any encoding but ``state``.
        means: Means of the numbers, float64 of shape (numbers,).
        scales: Standard deviations of the numbers, float64 of shape (numbers,).
        centers: In grid steps, float64 of shape (layers, clusters, numbers).
        actions: Actions of the centers, integers in ``0..num_actions - 1`` of shape
            (layers * clusters,).
        by_layer: Whether each layer has its own centers; the layer index is then excluded from the
            numbers.
        num_actions: Number of actions.

    Raises:
        ValueError: The arguments do not fit one another.

    Example:
        >>> observation = ObservationSpec(dims=4, encoding="features", pool_groups=1)
        >>> centers = torch.tensor([[[0.0, 0.0], [0.0, 2.0]]]).double() * GRID_STEPS
        >>> one = torch.ones(2).double()
        >>> table = KMeansPolicy(observation, one * 0, one, centers, torch.tensor([3, 8]), False)
        >>> obs = torch.tensor([[0.1, 0.9], [0.1, 1.1]]).double()
        >>> table(obs, layer=torch.tensor([0])).tolist()
        [3, 8]
    """

    head_type = "kmeans"
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
        num_actions: int = NUM_ACTIONS,
    ) -> None:
        super().__init__()
        if observation.encoding == "state":
            raise ValueError("state ids have no distances: encoding must not be 'state'")
        if by_layer and not observation.include_layer_index:
            raise ValueError("centers of each layer need observations that end with its index")
        numbers = len(observation.nvec) - by_layer
        layers = observation.num_layers if by_layer else 1
        shapes = [tuple(each.shape) for each in (means, scales, centers)]
        if shapes != [(numbers,), (numbers,), (layers, *shapes[2][1:2], numbers)]:
            raise ValueError(
                f"means, scales and centers have shapes {shapes}; the observation needs "
                f"({numbers},), ({numbers},) and ({layers}, clusters, {numbers})"
            )
        _check_actions(actions, (layers * centers.shape[1],), num_actions)
        self.by_layer = by_layer
        self.num_actions = num_actions
        self.encoder = ObsNormalizer(observation)
        self.register_buffer("means", copied(means, torch.float64))
        self.register_buffer("scales", copied(scales, torch.float64))
        self.register_buffer("centers", copied(centers, torch.float64))
        self.register_buffer("actions", copied(actions, torch.int64))

    def __repr__(self) -> str:
        layers, clusters, _ = self.centers.shape
        counts = f"{clusters} clusters" + f" in each of {layers} layers" * self.by_layer
        return f"KMeansPolicy({counts}, {self.num_actions} actions)"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, except the observation."""
        names = ("means", "scales", "centers", "actions", "by_layer", "num_actions")
        return {name: getattr(self, name) for name in names}

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


def _check_actions(actions: Tensor, shape: tuple[int, ...], num_actions: int) -> None:
    if actions.shape != shape or actions.dtype.is_floating_point:
        raise ValueError(
            f"actions have shape {tuple(actions.shape)} and dtype {actions.dtype}; they must be "
            f"integers of shape {shape}"
        )
    if ((actions < 0) | (actions >= num_actions)).any():
        raise ValueError(f"actions must be in 0..{num_actions - 1}")
