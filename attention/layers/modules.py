"""Small modules of the layers: projections, the combiner of heads, and predictors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def split_heads(x: Tensor, head: int) -> Tensor:
    """Split (batch, tokens, dims) into (batch, heads, tokens, head size), a view."""
    return x.unflatten(-1, (head, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """Merge (batch, heads, tokens, head size) into (batch, tokens, dims)."""
    return x.transpose(-2, -3).flatten(-2)


def cast_weight(weight: Tensor, x: Tensor) -> Tensor:
    """Cast a weight to the dtype of the input it is applied to; gradients flow back.

    Under autocast float32 weights are left to torch, which casts them for each operation, unless
    the input is float64, which autocast leaves alone.
    """
    if weight.dtype == x.dtype:
        return weight
    is_autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return weight if is_autocast and weight.dtype == torch.float32 else weight.to(x.dtype)


class CastingLinear(nn.Linear):
    """Linear map with weights cast to the input, whose dtype the output has."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map (..., in_features) to (..., out_features)."""
        weight, bias = cast_weight(self.weight, input), cast_weight(self.bias, input)
        return nn.functional.linear(input, weight, bias)


class CastingLayerNorm(nn.LayerNorm):
    """Layer normalization with weights cast to the input, whose dtype the output has."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Normalize the last dimension."""
        weight, bias = cast_weight(self.weight, input), cast_weight(self.bias, input)
        return nn.functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class SelfInitializing(nn.Module, ABC):
    """A module that draws its own weights."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Redraw the weights; from torch's default generator if None is given."""


class ProjectionModule(SelfInitializing):
    """Linear projection to heads: (batch, tokens, dims) to (batch, heads, tokens, head size).

    Example:
        >>> ProjectionModule(8, head=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 2, 5, 4])
    """

    def __init__(self, dims: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.proj = CastingLinear(dims, dims)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights from N(0, 0.02); biases are zero."""
        init_projection(self.proj, generator)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dims={self.proj.in_features}, head={self.head})"

    def forward(self, x: Tensor) -> Tensor:
        """Project and split."""
        return split_heads(self.proj(x), self.head)


class AttentionCombiner(SelfInitializing):
    """Output projection: (batch, heads, tokens, head size) to (batch, tokens, dims).

    Example:
        >>> AttentionCombiner(8)(torch.zeros(3, 2, 5, 4)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.out = CastingLinear(dims, dims)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights from N(0, 0.02); biases are zero."""
        init_projection(self.out, generator)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dims={self.out.in_features})"

    def forward(self, heads: Tensor) -> Tensor:
        """Merge and project."""
        return self.out(merge_heads(heads))


class BatchInvariantLinear(nn.Linear):
    """`CastingLinear` whose result for a sequence is bit-identical in every batch.

    A matrix product may round differently for one row than for many. Thresholds amplify such
    differences, so each row is multiplied and summed separately; the matrices are small.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map (batch, in_features) to (batch, out_features)."""
        weight, bias = cast_weight(self.weight, input), cast_weight(self.bias, input)
        return (input[..., None, :] * weight).sum(-1) + bias


class BatchInvariantSigmoid(nn.Module):
    """Sigmoid whose result for a sequence is bit-identical in every batch.

    PyTorch's loop over vectors and the one over single numbers, for the rest of an array, round
    differently. An array with gaps takes the second one.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map any shape to the same shape."""
        return torch.sigmoid(torch.stack([input, input], dim=-1)[..., 0])


class Predictor(SelfInitializing):
    """Span predictor ``p = sigmoid(W · token mean + b)``: (batch, tokens, dims) to (batch, 1)."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.linear = BatchInvariantLinear(dims, 1)
        self.sigmoid = BatchInvariantSigmoid()
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights from Xavier's normal distribution; the bias is zero."""
        nn.init.xavier_normal_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dims={self.linear.in_features})"

    def forward(self, x: Tensor) -> Tensor:
        """Predict the span scale of each sequence, in (0, 1)."""
        return self.sigmoid(self.linear(x.mean(-2)))


class RefreshPredictor(nn.Sequential):
    """Predicts for each sequence whether cached keys (or values) are recomputed.

    Linear ``dims -> dims / 4``, ReLU, Linear ``-> 1`` and sigmoid on the token mean; threshold 0.5.
    """

    def __init__(self, dims: int) -> None:
        super().__init__(
            BatchInvariantLinear(dims, dims // 4),
            nn.ReLU(),
            BatchInvariantLinear(dims // 4, 1),
            BatchInvariantSigmoid(),
        )

    def __repr__(self) -> str:
        first = self[0]
        assert isinstance(first, nn.Linear)
        return f"{type(self).__name__}(dims={first.in_features})"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map (batch, tokens, dims) to booleans of shape (batch, 1)."""
        return super().forward(input.mean(-2)) > 0.5


def init_linear(linear: nn.Linear, generator: torch.Generator | None = None) -> None:
    """Draw weights and biases from PyTorch's default distribution, with a generator."""
    bound = 1 / math.sqrt(linear.in_features)
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)


def init_projection(linear: nn.Linear, generator: torch.Generator | None = None) -> None:
    """Draw weights from N(0, 0.02) and set the biases to zero."""
    nn.init.normal_(linear.weight, std=0.02, generator=generator)
    nn.init.zeros_(linear.bias)
