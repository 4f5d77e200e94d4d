"""Keys and values of a model for the part of a document that it has read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spangym.utils.readable_repr import readable_repr


@dataclass(frozen=True)
class BlockCache:
    """Keys and values of a document so far; those that were trimmed are 0, and not seen again.

    Attributes:
        keys: Shape (batch, model layers, heads, ctx, head_dim).
        values: The same.
        is_held: Which tokens are held, boolean (batch, ctx).
        cut_shares: Share of the last block's attention that went beyond each cut, shape (batch,
            cuts); None where it is not known.
    """

    __repr__ = readable_repr

    keys: Tensor
    values: Tensor
    is_held: Tensor
    cut_shares: Tensor | None = None
