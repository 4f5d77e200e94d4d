"""Heads of attention: split, projected and joined."""

from __future__ import annotations

from torch import Tensor, nn


def split_heads(x: Tensor, head: int) -> Tensor:
    """(lanes, tokens, dims) -> (lanes, heads, tokens, head size), a view."""
    return x.unflatten(-1, (head, -1)).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(lanes, heads, tokens, head size) -> (lanes, tokens, dims)."""
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
        """(lanes, tokens, dims) -> (lanes, heads, tokens, head size)."""
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
        """(lanes, heads, tokens, head size) -> (lanes, tokens, dims)."""
        return self.out(join_heads(heads))
