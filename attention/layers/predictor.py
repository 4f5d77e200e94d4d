"""Small heads that decide, for each lane by itself, from the mean over its tokens."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class LaneLinear(nn.Linear):
    """A linear map whose result for a lane has the same bits whatever lanes stand beside it.

    A matrix product may round differently for one row than for many. Decisions hang on
    thresholds, so here each row is multiplied and summed by itself; the matrices are small.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Map (lanes, in_features) to (lanes, out_features)."""
        return (input[..., None, :] * self.weight).sum(-1) + self.bias


class Predictor(nn.Module):
    """Span predictor: ``p = sigmoid(W · mean over tokens + b)``.

    Args:
        dims: Width of the input.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.linear = LaneLinear(dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the span scale of each lane.

        Args:
            x: Shape (lanes, tokens, dims).

        Returns:
            Shape (lanes, 1), in (0, 1).
        """
        return torch.sigmoid(self.linear(x.mean(-2)))


class RefreshPredictor(nn.Sequential):
    """Says for each lane whether cached keys (or values) are to be computed anew.

    Linear ``dims -> dims / 4``, ReLU, Linear ``-> 1``, sigmoid, threshold 0.5, on the mean over
    the tokens.

    Args:
        dims: Width of the input, at least 4.
    """

    def __init__(self, dims: int) -> None:
        super().__init__(
            LaneLinear(dims, dims // 4), nn.ReLU(), LaneLinear(dims // 4, 1), nn.Sigmoid()
        )

    def always(self) -> None:
        """Set the weights such that the answer is yes, whatever is read."""
        last = cast(LaneLinear, self[2])
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Decide for (lanes, tokens, dims); boolean of shape (lanes, 1)."""
        return super().forward(input.mean(-2)) > 0.5
