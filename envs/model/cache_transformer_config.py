"""Sizes of the small transformer that reads documents block by block."""

from __future__ import annotations

from dataclasses import dataclass

from spangym.utils.scalars import PositiveInt, normalize_fields


@dataclass(frozen=True)
class CacheTransformerConfig:
    """Sizes of a `CacheTransformer`.

    Attributes:
        dims: Width.
        heads: Attention heads.
        ctx: Longest document, in tokens.
        block: Tokens of a block.
        hidden: Width of the feed-forward part.
        num_classes: Number of target classes.
    """

    dims: PositiveInt = 32
    heads: PositiveInt = 1
    ctx: PositiveInt = 256
    block: PositiveInt = 16
    hidden: PositiveInt = 64
    num_classes: PositiveInt = 4

    def __post_init__(self) -> None:
        normalize_fields(self)
        if self.ctx % self.block or self.ctx < 2 * self.block:
            raise ValueError(f"block must divide ctx={self.ctx} into at least 2, got {self.block}")
        if self.dims % self.heads:
            raise ValueError(f"heads must divide dims={self.dims}, got {self.heads}")

    @property
    def num_blocks(self) -> int:
        """Blocks of the longest document."""
        return self.ctx // self.block
