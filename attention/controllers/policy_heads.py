"""What every frozen controller decides by: from the numbers of an `ObservationSpec` to actions.

A head holds what was learned as buffers and passes no gradient on; all of it happens on the device.
Each sequence is computed by itself: a decision has the same bits whatever sequences stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention.observation_spec import ObservationSpec


class ObsNormalization(NamedTuple):
    """How numbers are normalized: ``clamp((x - mean) / std, -clip, clip)``.

    Attributes:
        mean: Shape (numbers,), float64.
        std: Likewise.
        clip: Largest of what results.
    """

    mean: Tensor
    std: Tensor
    clip: float


class PolicyHead(nn.Module):
    """What decides.

    Attributes:
        head_type: What a file calls it.
        config: What it is made from besides its tensors and the observation, ready for JSON.
    """

    head_type: ClassVar[str]
    config: Mapping[str, Any]

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Decide for every sequence.

        Args:
            numbers: What `ObservationSpec.encode` gave, float64 of shape (batch, numbers).
            layer: Index of the layer, int64 of shape (1,).

        Returns:
            Actions, int64 of shape (batch,).
        """
        raise NotImplementedError

    @classmethod
    def from_tensors(
        cls, observation: ObservationSpec, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> PolicyHead:
        """The head whose ``state_dict`` and ``settings`` these are.

        Raises:
            ValueError: They do not go together.
            KeyError: Something is missing.
        """
        raise NotImplementedError


class ObsNormalizer(nn.Module):
    """Numbers as the environment and Stable-Baselines3 make them of one another, type by type.

    Args:
        observation: What is observed; ``features`` are clamped to its bounds.
        normalization: How numbers are normalized; None leaves them.
    """

    low: Tensor | None
    high: Tensor | None
    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, observation: ObservationSpec, normalization: ObsNormalization | None = None
    ) -> None:
        super().__init__()
        low, high = (
            torch.tensor(each, dtype=torch.float32) if observation.encoding == "features" else None
            for each in observation.bounds
        )
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        mean, std, self.clip = normalization or (None, None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, numbers: Tensor) -> Tensor:
        """Turn float64 of shape (batch, numbers) into float32."""
        read = numbers.float()
        if self.low is not None:
            read = torch.clamp(read, self.low, self.high)
        if self.mean is None or self.std is None or self.clip is None:
            return read
        return ((read - self.mean) / self.std).clamp(-self.clip, self.clip).float()
