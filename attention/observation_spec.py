"""What is observed of a layer's input: one code for environments and for controllers in layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import DIGIT_VALUES, digits, features, lag_correlations, pool
from spangym.attention.span_config import check_rules, check_whole_numbers
from spangym.utils.suggestions import did_you_mean

ENCODINGS = ("digits", "box", "features", "state")
"""Names of the encodings."""

LAG_BUCKETS = 9
"""Lag correlations that are observed: the last bucket begins beyond 128 tokens."""


@dataclass(frozen=True)
class Observation:
    """Which numbers are read off a layer's normalised input, all on its device.

    Attributes:
        dims: Width of the layers.
        layers: Layers in the stack.
        encoding: How they are given: ``digits`` (0 to 10), ``box`` (those scaled to [-1, 1]),
            ``features`` (as they are) or ``state`` (the id of the digits).
        groups: Groups of dimensions that means and variances are pooled to; 0 leaves them.
        lags: Whether lag correlations follow them.
        layer_index: Whether the index of the layer is the last number.

    Raises:
        ValueError: One of them breaks its rule.

    Example:
        >>> observation = Observation(dims=4, layers=2, encoding="box", layer_index=True)
        >>> seen = observation.features(torch.eye(4)[None])
        >>> observation.numbers(seen, layer=1).round(decimals=3).tolist()
        [[0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1.0]]
    """

    dims: int
    layers: int = 1
    encoding: str = "digits"
    groups: int = 0
    lags: bool = False
    layer_index: bool = False

    def __post_init__(self) -> None:
        dims, groups = self.dims, self.groups
        check_whole_numbers(dims=dims, layers=self.layers, groups=groups)
        if self.encoding not in ENCODINGS:
            hint = did_you_mean(str(self.encoding), ENCODINGS)
            raise ValueError(f"encoding {self.encoding!r} is unknown{hint}")
        check_rules(
            [
                (dims >= 1, f"dims must be at least 1, got {dims}"),
                (self.layers >= 1, f"layers must be at least 1, got {self.layers}"),
                (
                    groups >= 0 and (not groups or dims % groups == 0),
                    f"groups must divide dims (or be 0: no pooling), got groups={groups}, "
                    f"dims={dims}",
                ),
            ]
        )

    @property
    def width(self) -> int:
        """How many numbers `features` gives."""
        return 2 * (self.groups or self.dims) + self.lags * LAG_BUCKETS

    @property
    def sizes(self) -> list[int]:
        """How many values each of the digits has, and the index of the layer."""
        return [DIGIT_VALUES] * self.width + [self.layers] * self.layer_index

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest of the numbers of ``features``.

        A normalised entry is at most the root of ``dims`` in size. Learned gains could exceed that;
        means beyond it, and variances beyond its square, are clamped.
        """
        half, tail = self.groups or self.dims, self.lags * LAG_BUCKETS + self.layer_index
        bound = math.sqrt(self.dims)
        low = [-bound] * half + [0.0] * half + [-1.0] * tail
        return low, [bound] * half + [float(self.dims)] * half + [1.0] * tail

    def features(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What is observed of a layer's normalised input, before it is encoded.

        Args:
            local_input: Shape (lanes, tokens, dims).
            lengths: Tokens of each lane that are no padding, shape (lanes,); all if None.

        Returns:
            Means, variances and lag correlations, shape (lanes, width), float32 or wider.
        """
        return self.observed(features(local_input, lengths), local_input, lengths)

    def observed(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """The same where means and variances are there already.

        Args:
            features: What `spangym.attention.features.features` gave, shape (lanes, 2 * dims).
            local_input: As in `features`.
            lengths: As in `features`.
        """
        found = pool(features, self.groups) if self.groups else features
        if not self.lags:
            return found
        correlations = lag_correlations(local_input, LAG_BUCKETS, lengths)
        return torch.cat([found, correlations], dim=-1)

    def encoded(self, features: Tensor) -> Tensor:
        """Encode what was observed; digits, for ``state`` too, which is their id.

        Args:
            features: What `features` gave, shape (lanes, width).

        Returns:
            Shape (lanes, width), float64, which holds each number exactly.
        """
        if self.encoding == "features":
            return features.double()
        if self.encoding == "box":
            return digits(features).double() * (2 / (DIGIT_VALUES - 1)) - 1
        return digits(features).double()

    def place(self, layer: int) -> float:
        """The number that stands for a layer: its index among digits, else from -1 to 1."""
        if self.encoding in ("digits", "state"):
            return layer
        return 2 * layer / max(self.layers - 1, 1) - 1

    def numbers(self, features: Tensor, layer: int) -> Tensor:
        """Encode what was observed, and say which layer is next where that is observed.

        Args:
            features: What `features` gave, shape (lanes, width).
            layer: Index of the layer.

        Returns:
            Shape (lanes, numbers), float64.
        """
        numbers = self.encoded(features)
        if not self.layer_index:
            return numbers
        return torch.cat([numbers, torch.full_like(numbers[:, :1], self.place(layer))], dim=-1)
