"""How an agent sees the features of a layer's input.

An encoding turns features into numbers on the device, and the numbers, once copied to the host,
into observations of its space. The two halves stand apart so that one copy a step carries both
observations and rewards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from ..attention.metrics import (
    DIGIT_VALUES,
    STATES,
    digits,
    features,
    lag_correlations,
    pool,
    state_id,
)

LAG_BUCKETS = 9
"""Lag correlations that are observed: the last bucket begins beyond 128 tokens."""


class Encoding(ABC):
    """Observations from the features of a layer's input.

    Args:
        dims: Width of the layers.
        layers: Layers in the stack.
        groups: Groups of dimensions that means and variances are pooled to; 0 leaves them.
        lags: Whether lag correlations follow them.
        layer_index: Whether the observation ends with the index of the layer.

    Attributes:
        space: Space of one lane's observation.
    """

    def __init__(
        self,
        dims: int,
        layers: int,
        groups: int = 0,
        lags: bool = False,
        layer_index: bool = False,
    ) -> None:
        self.dims = dims
        self.layers = layers
        self.groups = groups
        self.lags = LAG_BUCKETS if lags else 0
        self.layer_index = layer_index
        self.width = 2 * (groups or dims) + self.lags
        self.space = self._make_space()

    @abstractmethod
    def _make_space(self) -> spaces.Space[Any]:
        """Space of one lane's observation."""

    def features(self, local_input: Tensor) -> Tensor:
        """What is observed of a layer's normalised input, before it is encoded.

        Args:
            local_input: Shape (lanes, tokens, dims).

        Returns:
            Means, variances and lag correlations, shape (lanes, numbers), float32 or wider.
        """
        found = features(local_input)
        if self.groups:
            found = pool(found, self.groups)
        if self.lags:
            found = torch.cat([found, lag_correlations(local_input, self.lags)], dim=-1)
        return found

    @abstractmethod
    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Numbers to copy to the host.

        Args:
            features: What `features` gave, shape (lanes, numbers).
            layer: Index of the layer that is next.

        Returns:
            Shape (lanes, numbers), float64, on the device.
        """

    @abstractmethod
    def observations(self, numbers: NDArray[np.float64]) -> NDArray[Any]:
        """Observations of all lanes, a fresh array, from numbers of shape (lanes, numbers)."""

    def _append(self, numbers: Tensor, layer: float) -> Tensor:
        if not self.layer_index:
            return numbers.double()
        column = torch.full_like(numbers[:, :1], layer, dtype=torch.float64)
        return torch.cat([numbers.double(), column], dim=-1)

    def _layer_in_unit_interval(self, layer: int) -> float:
        """The layer's index on a scale from -1 (first) to 1 (last)."""
        return 2 * layer / max(self.layers - 1, 1) - 1


class DigitsEncoding(Encoding):
    """The digits themselves: ``MultiDiscrete([11] * numbers)``, the layer's index last."""

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.MultiDiscrete(
            [DIGIT_VALUES] * self.width + [self.layers] * self.layer_index, dtype=np.int64
        )

    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Digits, the layer's index last; shape (lanes, numbers)."""
        return self._append(digits(features), layer)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """Digits as int64, shape (lanes, numbers)."""
        return numbers.astype(np.int64)


class BoxEncoding(Encoding):
    """The digits scaled to [-1, 1], float32; what deep agents learn from fastest."""

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (self.width + self.layer_index,), np.float32)

    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Scaled digits, the scaled index of the layer last; shape (lanes, numbers)."""
        scaled = digits(features).double() * (2 / (DIGIT_VALUES - 1)) - 1
        return self._append(scaled, self._layer_in_unit_interval(layer))

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Scaled digits as float32, shape (lanes, numbers)."""
        return numbers.astype(np.float32)


class FeaturesEncoding(Encoding):
    """The raw means, variances and lag correlations, float32.

    A normalised entry is at most the root of ``dims`` in size. Learned gains could exceed that;
    means beyond it, and variances beyond its square, are clamped.
    """

    def _make_space(self) -> spaces.Space[Any]:
        bound = np.sqrt(self.dims)
        half = (self.width - self.lags) // 2
        tail = self.lags + self.layer_index
        low = [-bound] * half + [0.0] * half + [-1.0] * tail
        high = [bound] * half + [float(self.dims)] * half + [1.0] * tail
        return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)

    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Features, the scaled index of the layer last; shape (lanes, numbers)."""
        return self._append(features, self._layer_in_unit_interval(layer))

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features as float32, shape (lanes, numbers), within their bounds."""
        assert isinstance(self.space, spaces.Box)
        return numbers.astype(np.float32).clip(self.space.low, self.space.high)


class StateEncoding(DigitsEncoding):
    """The original's state id, ``hash(tuple(digits)) % 9999``: ``Discrete(9999)``, for tables."""

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Discrete(STATES)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """State ids as int64, shape (lanes,)."""
        rows = super().observations(numbers).tolist()
        return np.array([state_id(row) for row in rows], dtype=np.int64)


ENCODINGS: dict[str, type[Encoding]] = {
    "digits": DigitsEncoding,
    "box": BoxEncoding,
    "features": FeaturesEncoding,
    "state": StateEncoding,
}
"""Encodings by name."""
