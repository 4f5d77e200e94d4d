"""The observation of a layer's input, shared by environments and by controllers in layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from spangym.attention.features import (
    MAX_STATES,
    NUM_BINS,
    NUM_STATES,
    autocorrelation_buckets,
    discretize,
    pool_dims,
    token_moments,
)
from spangym.attention.geometry import MAX_ACTIONS
from spangym.attention.hashing import tuple_hash_states
from spangym.attention.validation import check
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import PositiveInt, normalize_fields
from spangym.utils.suggestions import did_you_mean

ENCODINGS = ("digits", "box", "features", "state")
LAG_BUCKETS = 9
"""Number of autocorrelation features; the last bucket contains all lags beyond 128 tokens."""


@dataclass(frozen=True)
class ObservationSpec:
    """Numbers computed from a layer's normalized input, all on its device.

    Attributes:
        dims: Width of the layers.
        num_layers: Number of layers of the stack. Default: 1.
        encoding: ``digits`` (0 to 10, the default), ``box`` (digits scaled to [-1, 1]),
            ``features`` (real numbers) or ``state`` (the id of the digits, `state_ids`).
        pool_groups: Number of groups of dimensions over which means and variances are averaged; 0,
            the default, for none.
        autocorrelation: Whether autocorrelations follow. Default: false.
        include_layer_index: Whether the index of the layer is the last number; of state ids, each
            layer then has its own range. Default: false.
        include_cost_coef: Whether the cost coefficient, scaled by `scale_cost_coef`, follows the
            features as one more of them. Default: false.
        num_states: Number of states of the encoding ``state``, in 2..1,000,000: ids are hashes
            modulo ``num_states - 1``, as in the original. Default: 10,000.
        num_cuts: Number of cuts of a key-value cache, whose shares of the attention follow.
            Default: 0.
        include_cache_size: Whether the share of tokens that the cache holds follows. Default:
            false.

    Raises:
        TypeError: An attribute has another type.
        ValueError: An attribute is out of range.

    Example:
        >>> spec = ObservationSpec(dims=4, num_layers=2, encoding="box", include_layer_index=True)
        >>> features = spec.extract_from_input(torch.eye(4)[None])
        >>> spec.encode(features, layer=1).round(decimals=3).tolist()
        [[0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 1.0]]
    """

    __repr__ = readable_repr

    dims: PositiveInt
    num_layers: PositiveInt = 1
    encoding: str = "digits"
    pool_groups: int = 0
    autocorrelation: bool = False
    include_layer_index: bool = False
    include_cost_coef: bool = False
    num_states: Annotated[int, Interval(ge=2, le=MAX_STATES)] = NUM_STATES
    num_cuts: Annotated[int, Interval(ge=0, le=MAX_ACTIONS)] = 0
    include_cache_size: bool = False

    def __post_init__(self) -> None:
        normalize_fields(self)
        dims, groups = self.dims, self.pool_groups
        if self.encoding not in ENCODINGS:
            hint = did_you_mean(str(self.encoding), ENCODINGS)
            raise ValueError(f"encoding {short_repr(self.encoding)} is unknown{hint}")
        rule = f"pool_groups must divide dims or be 0, got pool_groups={groups}, dims={dims}"
        check([(groups >= 0 and (not groups or dims % groups == 0), rule)])

    @property
    def num_features(self) -> int:
        """Number of features that `extract` gives."""
        moments = 2 * (self.pool_groups or self.dims)
        return moments + self.autocorrelation * LAG_BUCKETS + self.num_cache_features

    @property
    def num_cache_features(self) -> int:
        """Number of features that describe a key-value cache."""
        return self.num_cuts + self.include_cache_size

    @property
    def nvec(self) -> list[int]:
        """Number of values of each digit, and of the layer index."""
        digits = [NUM_BINS] * (self.num_features + self.include_cost_coef)
        return digits + [self.num_layers] * self.include_layer_index

    @property
    def num_state_ids(self) -> int:
        """Number of state ids, of all layers together if the layer index is included."""
        return (self.num_states - 1) * (self.num_layers if self.include_layer_index else 1)

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        """Lowest and highest numbers of the encoding ``features``.

        A normalized entry is at most ``sqrt(dims)`` in magnitude. Learned gains could exceed it:
        means and variances are clamped.
        """
        half = self.pool_groups or self.dims
        others = (self.include_cost_coef, self.include_layer_index)
        tail = self.autocorrelation * LAG_BUCKETS + self.num_cache_features + sum(others)
        bound = math.sqrt(self.dims)
        low = [-bound] * half + [0.0] * half + [-1.0] * tail
        return low, [bound] * half + [float(self.dims)] * half + [1.0] * tail

    def extract_from_input(self, local_input: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features of a layer's normalized input.

        Args:
            local_input: Shape (batch, tokens, dims).
            lengths: Number of unpadded tokens of each sequence, shape (batch,); all if None.

        Returns:
            Means, variances and autocorrelations, shape (batch, num_features), at least float32;
            features of a cache are 0.
        """
        return self.extract(token_moments(local_input, lengths), local_input, lengths)

    def extract(
        self,
        moments: Tensor,
        local_input: Tensor,
        lengths: Tensor | None = None,
        cache_features: Tensor | None = None,
    ) -> Tensor:
        """Compute the same features as `extract_from_input`, with what is known of the input.

        Args:
            moments: `token_moments` of the input, shape (batch, 2 * dims).
            local_input: See `extract_from_input`.
            lengths: See `extract_from_input`.
            cache_features: Attention shares beyond each cut, and the share of tokens held, shape
                (batch, num_cuts + 1); None for zeros.
        """
        parts = [pool_dims(moments, self.pool_groups) if self.pool_groups else moments]
        if self.autocorrelation:
            parts.append(autocorrelation_buckets(local_input, LAG_BUCKETS, lengths))
        if self.num_cache_features:
            if cache_features is None:
                cache_features = moments.new_zeros(len(moments), self.num_cuts + 1)
            parts.append(cache_features[:, : self.num_cache_features].to(moments))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def select(self, features: Tensor) -> Tensor:
        """Features of this specification, of all features of a layer's input.

        Args:
            features: Means, variances and autocorrelations, not pooled, and with `num_cuts` the
                features of a cache, shape (batch, 2 * dims + `LAG_BUCKETS` + num_cuts + 1).

        Returns:
            Shape (batch, num_features), equal to what `extract_from_input` gives.
        """
        first = 2 * self.dims
        moments, correlations, cache = features.tensor_split([first, first + LAG_BUCKETS], dim=-1)
        parts = [pool_dims(moments, self.pool_groups) if self.pool_groups else moments]
        parts += [correlations] * self.autocorrelation
        parts += [cache[:, : self.num_cache_features]] * (self.num_cache_features > 0)
        return torch.cat(parts, dim=-1)

    def encode(self, features: Tensor, layer: int, cost_coef: Tensor | None = None) -> Tensor:
        """Encode features, and cost coefficient and layer index where they are observed.

        Args:
            features: Output of `extract`, shape (batch, num_features).
            layer: Index of the layer.
            cost_coef: Cost coefficient of each sequence, shape (batch,); needed only if it is
                observed.

        Returns:
            Shape (batch, numbers), float64, which represents every number exactly.
        """
        if self.include_cost_coef:
            assert cost_coef is not None
            scaled = scale_cost_coef(cost_coef)[:, None].to(features.dtype)
            features = torch.cat([features, scaled], dim=-1)
        numbers = self.encode_features(features)
        if not self.include_layer_index:
            return numbers
        index = torch.full_like(numbers[:, :1], self.encode_layer_index(layer))
        return torch.cat([numbers, index], dim=-1)

    def encode_features(self, features: Tensor) -> Tensor:
        """Encode features alone; ``state`` is encoded as its digits."""
        if self.encoding == "features":
            return features.double()
        if self.encoding == "box":
            return discretize(features).double() * (2 / (NUM_BINS - 1)) - 1
        return discretize(features).double()

    def encode_layer_index(self, layer: int) -> float:
        """The number of a layer: its index with digits, otherwise scaled to [-1, 1]."""
        if self.encoding in ("digits", "state"):
            return layer
        return 2 * layer / max(self.num_layers - 1, 1) - 1

    def state_ids(self, numbers: Tensor) -> Tensor:
        """State ids of the numbers of `encode` with the encoding ``state``.

        An id is ``hash(tuple(digits)) % (num_states - 1)``; if the layer index is included, plus
        ``(num_states - 1)`` times the index.

        Args:
            numbers: Digits, and the layer index if it is included, shape (batch, numbers).

        Returns:
            int64 of shape (batch,), in ``0..num_state_ids - 1``.

        Example:
            >>> spec = ObservationSpec(4, num_layers=2, encoding="state", include_layer_index=True)
            >>> digits = torch.tensor([[5, 5, 5, 5, 5, 5, 5, 5, 0], [5, 5, 5, 5, 5, 5, 5, 5, 1]])
            >>> ids = spec.state_ids(digits)
            >>> ids.tolist() == [hash((5,) * 8) % 9999, 9999 + hash((5,) * 8) % 9999]
            True
        """
        digits = numbers.long()
        if not self.include_layer_index:
            return tuple_hash_states(digits, self.num_states)
        ids = tuple_hash_states(digits[:, :-1].contiguous(), self.num_states)
        return ids + digits[:, -1] * (self.num_states - 1)


def scale_cost_coef(cost_coef: Tensor) -> Tensor:
    """Scale cost coefficients to [-1, 1): ``(c - 1) / (c + 1)``, in float64 of the same shape.

    -1 stands for no cost, 0 for a full attention that costs one unit of reward. It is the
    hyperbolic tangent of half the logarithm, and does not depend on the range of the coefficients.

    Example:
        >>> scale_cost_coef(torch.tensor([0.0, 0.25, 1.0, 4.0])).tolist()
        [-1.0, -0.6, 0.0, 0.6]
    """
    cost_coef = cost_coef.double()
    return (cost_coef - 1) / (cost_coef + 1)
