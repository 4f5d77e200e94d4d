"""What every frozen controller decides by: from the numbers of an `Observation` to actions.

A head holds what was learnt as buffers and passes no gradient on; all of it happens on the device.
Each lane is computed by itself: a decision has the same bits whatever lanes stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention.observation_spec import Observation


class Normalisation(NamedTuple):
    """How numbers are normalised: ``clamp((x - mean) / deviation, -clip, clip)``.

    Attributes:
        mean: Shape (numbers,), float64.
        deviation: Likewise.
        clip: Largest of what results.
    """

    mean: Tensor
    deviation: Tensor
    clip: float


class Head(nn.Module):
    """What decides.

    Attributes:
        kind: What a file calls it.
        settings: What it is made from besides its tensors and the observation, ready for JSON.
    """

    kind: ClassVar[str]
    settings: Mapping[str, Any]

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Decide for every lane.

        Args:
            numbers: What `Observation.numbers` gave, float64 of shape (lanes, numbers).
            layer: Index of the layer, int64 of shape (1,).

        Returns:
            Actions, int64 of shape (lanes,).
        """
        raise NotImplementedError

    @classmethod
    def from_tensors(
        cls, observation: Observation, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ) -> Head:
        """The head whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        raise NotImplementedError


class Numbers(nn.Module):
    """Numbers as the environment and Stable-Baselines3 make them of one another, type by type.

    Args:
        observation: What is observed; ``features`` are clamped to its bounds.
        normalisation: How numbers are normalised; None leaves them.
    """

    low: Tensor | None
    high: Tensor | None
    mean: Tensor | None
    deviation: Tensor | None

    def __init__(
        self, observation: Observation, normalisation: Normalisation | None = None
    ) -> None:
        super().__init__()
        low, high = (
            torch.tensor(each, dtype=torch.float32) if observation.encoding == "features" else None
            for each in observation.bounds
        )
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        mean, deviation, self.clip = normalisation or (None, None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, numbers: Tensor) -> Tensor:
        """Turn float64 of shape (lanes, numbers) into float32."""
        read = numbers.float()
        if self.low is not None:
            read = torch.clamp(read, self.low, self.high)
        if self.mean is None or self.deviation is None or self.clip is None:
            return read
        return ((read - self.mean) / self.deviation).clamp(-self.clip, self.clip).float()
