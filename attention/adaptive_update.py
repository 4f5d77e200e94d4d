"""The global path: multi-head attention that may reuse the keys and values of its last pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .predictor import RefreshPredictor


@dataclass
class KeyValueCache:
    """Keys and values of the last pass, for a layer that reads a stream.

    Make one for each layer and stream, hand it to every pass, and make a new one when the stream
    starts again. A pass replaces its contents, detached from the graph.

    Attributes:
        keys: Shape (lanes, heads, tokens, head size), or None before the first pass.
        values: Same shape.
        refreshed_keys: Which lanes' keys the last pass computed anew, boolean (lanes,).
        refreshed_values: The same of the values.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    refreshed_keys: Tensor | None = None
    refreshed_values: Tensor | None = None


class ProjectionModule(nn.Module):
    """A projection with weights from N(0, 0.02) and zero biases, split in heads.

    Args:
        dims: Width of input and output.
        head: Number of heads; divides ``dims``.
    """

    def __init__(self, dims: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        """(lanes, tokens, dims) -> (lanes, heads, tokens, head size)."""
        return split_heads(self.proj(x), self.head)


class AttentionCombiner(nn.Module):
    """Joins the heads of an attention output and projects it.

    Args:
        dims: Width of input and output.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.out = nn.Linear(dims, dims)

    def forward(self, heads: Tensor) -> Tensor:
        """(lanes, heads, tokens, head size) -> (lanes, tokens, dims)."""
        return self.out(join_heads(heads))


class AdaptiveUpdateAttention(nn.Module):
    """Full multi-head self-attention with an explicit key-value cache.

    On a stream, two small predictors say for each lane whether its keys, and whether its values,
    are computed anew or taken from the pass before. Scores are scaled once, by
    ``1 / sqrt(head size)``.

    Args:
        dims: Width of input and output.
        head: Number of heads; divides ``dims``.
    """

    def __init__(self, dims: int, head: int) -> None:
        super().__init__()
        self.query_module = ProjectionModule(dims, head)
        self.key_module = ProjectionModule(dims, head)
        self.value_module = ProjectionModule(dims, head)
        self.combiner = AttentionCombiner(dims)
        self.key_update_predictor = RefreshPredictor(dims)
        self.value_update_predictor = RefreshPredictor(dims)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Attend over the whole sequence.

        Args:
            x: Shape (lanes, tokens, dims).
            cache: Keys and values of the last pass over the same lanes; replaced by this one's.

        Returns:
            Shape (lanes, tokens, dims).

        Raises:
            ValueError: The cache holds keys of another shape.
        """
        query, key, value = self._project(x)
        if cache is not None:
            anew_keys, anew_values = self._refresh(x, key, cache)
            if cache.keys is not None and cache.values is not None:
                key = torch.where(anew_keys[:, None, None], key, cache.keys)
                value = torch.where(anew_values[:, None, None], value, cache.values)
            cache.keys, cache.values = key.detach(), value.detach()
            cache.refreshed_keys, cache.refreshed_values = anew_keys[:, 0], anew_values[:, 0]
        return self.combiner(self._attend(query, key, value))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each of shape (lanes, heads, tokens, head size)."""
        return self.query_module(x), self.key_module(x), self.value_module(x)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output, shape (lanes, heads, tokens, head size)."""
        return nn.functional.scaled_dot_product_attention(query, key, value)

    def _refresh(self, x: Tensor, key: Tensor, cache: KeyValueCache) -> tuple[Tensor, Tensor]:
        if cache.keys is None:
            everything = x.new_ones((len(x), 1), dtype=torch.bool)
            return everything, everything
        if cache.keys.shape != key.shape:
            raise ValueError(
                f"cache holds keys of shape {tuple(cache.keys.shape)}, this pass needs "
                f"{tuple(key.shape)} (lanes, heads, tokens, head size): start a new KeyValueCache"
            )
        return self.key_update_predictor(x), self.value_update_predictor(x)


def split_heads(x: Tensor, head: int) -> Tensor:
    """(lanes, tokens, dims) -> (lanes, heads, tokens, head size), a view."""
    return x.unflatten(-1, (head, -1)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(lanes, heads, tokens, head size) -> (lanes, tokens, dims)."""
    return x.transpose(-2, -3).flatten(-2)
