"""Small modules of the layers: projections, the combiner of heads, and predictors."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def split_heads(x: Tensor, head: int) -> Tensor:
    """(batch, tokens, dims) -> (batch, heads, tokens, head size), a view."""
    return x.unflatten(-1, (head, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, tokens, head size) -> (batch, tokens, dims)."""
    return x.transpose(-2, -3).flatten(-2)


class ProjectionModule(nn.Module):
    """A projection with weights from N(0, 0.02) and zero biases, split in heads.

    Args:
        dims: Width of input and output.
        head: Number of heads; divides ``dims``.

    Example:
        >>> import torch
        >>> ProjectionModule(8, head=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 2, 5, 4])
    """

    def __init__(self, dims: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.proj = nn.Linear(dims, dims)
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dims) -> (batch, heads, tokens, head size)."""
        return split_heads(self.proj(x), self.head)


class AttentionCombiner(nn.Module):
    """Joins the heads of an attention output and projects it.

    Args:
        dims: Width of input and output.

    Example:
        >>> import torch
        >>> AttentionCombiner(8)(torch.zeros(3, 2, 5, 4)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.out = nn.Linear(dims, dims)

    def forward(self, heads: Tensor) -> Tensor:
        """(batch, heads, tokens, head size) -> (batch, tokens, dims)."""
        return self.out(merge_heads(heads))


class BatchInvariantLinear(nn.Linear):
    """A linear map whose result for a sequence has the same bits whatever sequences stand beside it.

    A matrix product may round differently for one row than for many. Decisions hang on
    thresholds, so here each row is multiplied and summed by itself; the matrices are small.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map (batch, in_features) to (batch, out_features)."""
        return (input[..., None, :] * self.weight).sum(-1) + self.bias


class Predictor(nn.Module):
    """Span predictor: ``p = sigmoid(W · mean over tokens + b)``.

    Args:
        dims: Width of the input.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.linear = BatchInvariantLinear(dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the span scale of each sequence.

        Args:
            x: Shape (batch, tokens, dims).

        Returns:
            Shape (batch, 1), in (0, 1).
        """
        return torch.sigmoid(self.linear(x.mean(-2)))


class RefreshPredictor(nn.Sequential):
    """Says for each sequence whether cached keys (or values) are to be computed anew.

    Linear ``dims -> dims / 4``, ReLU, Linear ``-> 1``, sigmoid, threshold 0.5, on the mean over
    the tokens.

    Args:
        dims: Width of the input, at least 4.
    """

    def __init__(self, dims: int) -> None:
        super().__init__(
            BatchInvariantLinear(dims, dims // 4),
            nn.ReLU(),
            BatchInvariantLinear(dims // 4, 1),
            nn.Sigmoid(),
        )

    def set_always_recompute(self) -> None:
        """Set the weights such that the answer is yes, whatever is read."""
        last = cast(BatchInvariantLinear, self[2])
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Decide for (batch, tokens, dims); boolean of shape (batch, 1)."""
        return super().forward(input.mean(-2)) > 0.5
