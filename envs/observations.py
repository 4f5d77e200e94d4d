"""How an agent sees the features of a layer's input.

An `Observation` turns features into numbers on the device, and an encoding the numbers, once copied
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

from spangym.attention.features import STATES, state_id
from spangym.attention.observation_spec import Observation


class Encoding(ABC):
    """Observations from the features of a layer's input.

    Args:
        dims: Width of the layers.
        layers: Layers in the stack.
        groups: Groups of dimensions that means and variances are pooled to; 0 leaves them.
        lags: Whether lag correlations follow them.
        layer_index: Whether the observation ends with the index of the layer.

    Attributes:
        observation: What is observed, on the device.
        space: Space of one lane's observation.
    """

    name: ClassVar[str]

    def __init__(
        self,
        dims: int,
        layers: int,
        groups: int = 0,
        lags: bool = False,
        layer_index: bool = False,
    ) -> None:
        self.observation = Observation(dims, layers, self.name, groups, lags, layer_index)
        self.space = self._make_space()

    @property
    def width(self) -> int:
        """How many numbers `features` gives."""
        return self.observation.width

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
        return self.observation.features(local_input)

    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Numbers to copy to the host.

        Args:
            features: What `features` gave, shape (lanes, numbers).
            layer: Index of the layer that is next.

        Returns:
            Shape (lanes, numbers), float64, on the device.
        """
        return self.observation.numbers(features, layer)

    @abstractmethod
    def observations(self, numbers: NDArray[np.float64]) -> NDArray[Any]:
        """Observations of all lanes, a fresh array, from numbers of shape (lanes, numbers)."""


class DigitsEncoding(Encoding):
    """The digits themselves: ``MultiDiscrete([11] * numbers)``, the layer's index last."""

    name = "digits"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.MultiDiscrete(self.observation.sizes, dtype=np.int64)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """Digits as int64, shape (lanes, numbers)."""
        return numbers.astype(np.int64)


class BoxEncoding(Encoding):
    """The digits scaled to [-1, 1], float32; what deep agents learn from fastest."""

    name = "box"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (len(self.observation.sizes),), np.float32)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Scaled digits as float32, shape (lanes, numbers)."""
        return numbers.astype(np.float32)


class FeaturesEncoding(Encoding):
    """The raw means, variances and lag correlations, float32, within their bounds."""

    name = "features"

    def _make_space(self) -> spaces.Space[Any]:
        low, high = (np.array(each, np.float32) for each in self.observation.bounds)
        return spaces.Box(low, high, dtype=np.float32)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features as float32, shape (lanes, numbers), within their bounds."""
        assert isinstance(self.space, spaces.Box)
        return numbers.astype(np.float32).clip(self.space.low, self.space.high)


class StateEncoding(DigitsEncoding):
    """The original's state id, ``hash(tuple(digits)) % 9999``: ``Discrete(9999)``, for tables."""

    name = "state"

    def _make_space(self) -> spaces.Space[Any]:
        return spaces.Discrete(STATES)

    def observations(self, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """State ids as int64, shape (lanes,)."""
        rows = super().observations(numbers).tolist()
        return np.array([state_id(row) for row in rows], dtype=np.int64)


ENCODINGS: dict[str, type[Encoding]] = {
    each.name: each for each in (DigitsEncoding, BoxEncoding, FeaturesEncoding, StateEncoding)
}
"""Encodings by name."""
