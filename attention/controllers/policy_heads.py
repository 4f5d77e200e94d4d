"""Base class of the heads of exported policies: from the encoded observation to actions.

A head holds its parameters as buffers and passes no gradient. It runs on the device, and computes
each sequence independently: an action is bit-identical in every batch.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention.observation_spec import ObservationSpec


class ObsNormalization(NamedTuple):
    """Normalization of observations: ``clamp((x - mean) / std, -clip, clip)``.

    Attributes:
        mean: Shape (numbers,), float64.
        std: Shape (numbers,), float64.
        clip: Largest magnitude of the result.
    """

    mean: Tensor
    std: Tensor
    clip: float


class PolicyHead(nn.Module):
    """A greedy policy on encoded observations.

    Attributes:
        head_type: Name of the class in files.
        num_actions: Number of actions.
    """

    head_type: ClassVar[str]
    num_actions: int

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, except the observation; a file stores them."""
        raise NotImplementedError

    def forward(self, numbers: Tensor, layer: Tensor) -> Tensor:
        """Choose the action of each sequence.

        Args:
            numbers: Output of `ObservationSpec.encode`, float64 of shape (batch, numbers).
            layer: Index of the layer, int64 of shape (1,).

        Returns:
            Actions, int64 of shape (batch,).
        """
        raise NotImplementedError


class ObsNormalizer(nn.Module):
    """The conversions of the environment and of Stable-Baselines3, with the same dtypes.

    Args:
        observation: The observation; ``features`` are clamped to its bounds.
        normalization: Normalization of the numbers; none by default.
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
        self.register_buffer("mean", None if mean is None else copied(mean))
        self.register_buffer("std", None if std is None else copied(std))

    def forward(self, numbers: Tensor) -> Tensor:
        """Convert float64 of shape (batch, numbers) to float32."""
        read = numbers.float()
        if self.low is not None:
            read = torch.clamp(read, self.low, self.high)
        if self.mean is None or self.std is None or self.clip is None:
            return read
        return ((read - self.mean) / self.std).clamp(-self.clip, self.clip).float()


def copied(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous copy, detached and with memory of its own, as file formats require."""
    return tensor.detach().to(dtype or tensor.dtype).clone(memory_format=torch.contiguous_format)
