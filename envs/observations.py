"""How an agent sees the features of a layer's input.

An `ObservationSpec` turns features into numbers on the device, and an encoding the numbers, once copied
to the host, into observations of its space. The two halves stand apart so that one copy a step
carries both observations and rewards, and that a controller in a layer needs the first only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention.features import NUM_STATES, tuple_hash_id
from spangym.attention.observation_spec import ObservationSpec


class Encoding(ABC):
    """Observations from the features of a layer's input.

    Args:
        dims: Width of the layers.
        num_layers: Layers in the stack.
        pool_groups: Groups of dimensions that means and variances are pooled to; 0 leaves them.
        autocorrelation: Whether lag correlations follow them.
        include_layer_index: Whether the observation ends with the index of the layer.

    Attributes:
        observation: What is observed, on the device.
        space: Space of one environment's observation.
    """

    name: ClassVar[str]

    def __init__(
        self,
        dims: int,
        num_layers: int,
        pool_groups: int = 0,
        autocorrelation: bool = False,
        include_layer_index: bool = False,
    ) -> None:
        self.observation = ObservationSpec(
            dims, num_layers, self.name, pool_groups, autocorrelation, include_layer_index
        )
        self.space = self._make_space()

    @property
    def num_features(self) -> int:
        """How many numbers `extract` gives."""
        return self.observation.num_features

    @abstractmethod
    def _make_space(self) -> spaces.Space[Any]:
        """Space of one environment's observation."""

    def extract(self, local_input: Tensor) -> Tensor:
        """What is observed of a layer's normalized input, before it is encoded.

        Args:
            local_input: Shape (num_envs, tokens, dims).

        Returns:
            Means, variances and lag correlations, shape (num_envs, numbers), float32 or wider.
        """
        return self.observation.extract_from_input(local_input)

    def encode(self, features: Tensor, layer: int) -> Tensor:
        """Numbers to copy to the host.

        Args:
            features: What `extract` gave, shape (num_envs, numbers).
            layer: Index of the layer that is next.

        Returns:
            Shape (num_envs, numbers), float64, on the device.
        """
        return self.observation.encode(features, layer)

    @abstractmethod
    def to_observations(self, numbers: NDArray[np.float64]) -> NDArray[Any]:
        """Observations of all environments, a fresh array, from numbers of shape (num_envs, numbers)."""


class DigitsEncoding(Encoding):
    """The digits themselves: ``MultiDiscrete([11] * numbers)``, the layer's index last."""

    name = "digits"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.MultiDiscrete(self.observation.nvec, dtype=np.int64)

    def to_observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """Digits as int64, shape (num_envs, numbers)."""
        return numbers.astype(np.int64)


class BoxEncoding(Encoding):
    """The digits scaled to [-1, 1], float32; what deep agents learn from fastest."""

    name = "box"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (len(self.observation.nvec),), np.float32)

    def to_observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Scaled digits as float32, shape (num_envs, numbers)."""
        return numbers.astype(np.float32)


class FeaturesEncoding(Encoding):
    """The raw means, variances and lag correlations, float32, within their bounds."""

    name = "features"

    def _make_space(self) -> spaces.Space[Any]:
        low, high = (np.array(each, np.float32) for each in self.observation.bounds)
        return spaces.Box(low, high, dtype=np.float32)

    def to_observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features as float32, shape (num_envs, numbers), within their bounds."""
        assert isinstance(self.space, spaces.Box)
        return numbers.astype(np.float32).clip(self.space.low, self.space.high)


class StateEncoding(DigitsEncoding):
    """The original's state id, ``hash(tuple(bins)) % 9999``: ``Discrete(9999)``, for tables."""

    name = "state"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Discrete(NUM_STATES)

    def to_observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """State ids as int64, shape (num_envs,)."""
        rows = super().to_observations(numbers).tolist()
        return np.array([tuple_hash_id(row) for row in rows], dtype=np.int64)


ENCODINGS: dict[str, type[Encoding]] = {
    each.name: each for each in (DigitsEncoding, BoxEncoding, FeaturesEncoding, StateEncoding)
}
"""Encodings by name."""
