"""What is observed of a layer's input: one code for environments and for controllers in layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention.features import (
    NUM_BINS,
    autocorrelation_buckets,
    discretize,
    pool_dims,
    token_moments,
)
from spangym.attention.validation import check, check_ints
from spangym.utils.suggestions import did_you_mean

ENCODINGS = ("digits", "box", "features", "state")
"""Names of the encodings."""

LAG_BUCKETS = 9
"""Lag correlations that are observed: the last bucket begins beyond 128 tokens."""


@dataclass(frozen=True)
class ObservationSpec:
    """Which numbers are read off a layer's normalized input, all on its device.

    Attributes:
        dims: Width of the layers.
        num_layers: Layers in the stack.
        encoding: How they are given: ``digits`` (0 to 10), ``box`` (those scaled to [-1, 1]),
            ``features`` (as they are) or ``state`` (the id of the digits).
        pool_groups: Groups of dimensions that means and variances are pooled to; 0 leaves them.
        autocorrelation: Whether lag correlations follow them.
        include_layer_index: Whether the index of the layer is the last number.

    Raises:
        ValueError: One of them breaks its rule.

    Example:
        >>> observation = ObservationSpec(dims=4, num_layers=2, encoding="box", include_layer_index=True)
        >>> obs = observation.extract_from_input(torch.eye(4)[None])
        >>> observation.encode(obs, layer=1).round(decimals=3).tolist()
        [[0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1.0]]
    """

    dims: int
    num_layers: int = 1
    encoding: str = "digits"
    pool_groups: int = 0
    autocorrelation: bool = False
    include_layer_index: bool = False

    def __post_init__(self) -> None:
        dims, pool_groups = self.dims, self.pool_groups
        check_ints(dims=dims, num_layers=self.num_layers, pool_groups=pool_groups)
        if self.encoding not in ENCODINGS:
            hint = did_you_mean(str(self.encoding), ENCODINGS)
            raise ValueError(f"encoding {self.encoding!r} is unknown{hint}")
        check(
            [
                (dims >= 1, f"dims must be at least 1, got {dims}"),
                (self.num_layers >= 1, f"num_layers must be at least 1, got {self.num_layers}"),
                (
                    pool_groups >= 0 and (not pool_groups or dims % pool_groups == 0),
                    f"pool_groups must divide dims (or be 0: no pooling), got pool_groups={pool_groups}, "
                    f"dims={dims}",
                ),
            ]
        )

    @property
    def num_features(self) -> int:
        """How many numbers `extract` gives."""
        return 2 * (self.pool_groups or self.dims) + self.autocorrelation * LAG_BUCKETS

    @property
    def nvec(self) -> list[int]:
        """How many values each of the digits has, and the index of the layer."""
        return [NUM_BINS] * self.num_features + [self.num_layers] * self.include_layer_index

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest of the numbers of ``features``.

        A normalized entry is at most the root of ``dims`` in size. Learned gains could exceed that;
        means beyond it, and variances beyond its square, are clamped.
        """
        half, tail = (
            self.pool_groups or self.dims,
            self.autocorrelation * LAG_BUCKETS + self.include_layer_index,
        )
        bound = math.sqrt(self.dims)
        low = [-bound] * half + [0.0] * half + [-1.0] * tail
        return low, [bound] * half + [float(self.dims)] * half + [1.0] * tail

    def extract_from_input(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What is observed of a layer's normalized input, before it is encoded.

        Args:
            local_input: Shape (batch, tokens, dims).
            lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.

        Returns:
            Means, variances and lag correlations, shape (batch, num_features), float32 or wider.
        """
        return self.extract(token_moments(local_input, lengths), local_input, lengths)

    def extract(
        self, features: Tensor, local_input: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """The same where means and variances are there already.

        Args:
            features: What `spangym.attention.features.token_moments` gave, shape (batch, 2 * dims).
            local_input: As in `extract_from_input`.
            lengths: As in `extract_from_input`.
        """
        features = pool_dims(features, self.pool_groups) if self.pool_groups else features
        if not self.autocorrelation:
            return features
        correlations = autocorrelation_buckets(local_input, LAG_BUCKETS, lengths)
        return torch.cat([features, correlations], dim=-1)

    def encode_features(self, features: Tensor) -> Tensor:
        """Encode what was observed; digits, for ``state`` too, which is their id.

        Args:
            features: What `extract` gave, shape (batch, num_features).

        Returns:
            Shape (batch, num_features), float64, which holds each number exactly.
        """
        if self.encoding == "features":
            return features.double()
        if self.encoding == "box":
            return discretize(features).double() * (2 / (NUM_BINS - 1)) - 1
        return discretize(features).double()

    def encode_layer_index(self, layer: int) -> float:
        """The number that stands for a layer: its index among digits, else from -1 to 1."""
        if self.encoding in ("digits", "state"):
            return layer
        return 2 * layer / max(self.num_layers - 1, 1) - 1

    def encode(self, features: Tensor, layer: int) -> Tensor:
        """Encode what was observed, and say which layer is next where that is observed.

        Args:
            features: What `extract` gave, shape (batch, num_features).
            layer: Index of the layer.

        Returns:
            Shape (batch, numbers), float64.
        """
        numbers = self.encode_features(features)
        if not self.include_layer_index:
            return numbers
        return torch.cat(
            [numbers, torch.full_like(numbers[:, :1], self.encode_layer_index(layer))], dim=-1
        )
