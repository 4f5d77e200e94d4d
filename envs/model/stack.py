"""Stacks of live layers: what stands before, between and after them."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spangym.attention import AdaptiveUpdateAttention, IntegratedAttention, LayerCache, Outcome
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.state import joined, map_tensors


class Stack(nn.Module, ABC):
    """Live layers and what stands around them.

    Args:
        layers: The layers, all of one width.

    Attributes:
        classes: What `bits` tells apart; 0 for a stack that was trained on no task.
    """

    classes: int = 0

    def __init__(self, layers: Sequence[IntegratedAttention]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @property
    def device(self) -> torch.device:
        """Where the layers run."""
        return next(self.parameters()).device

    def layer(self, index: int) -> IntegratedAttention:
        """One of the layers."""
        return cast(IntegratedAttention, self.layers[index])

    def run(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        *,
        refresh: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> Outcome:
        """Run one of the layers, so that no lane hangs on those beside it.

        Args:
            index: Of the layer.
            hidden: Its input, shape (lanes, tokens, dims).
            actions: Integers 0..9 of shape (lanes,); the layer's predictor decides if None.
            refresh: Whether keys, and values, are computed anew, boolean (lanes, 2); the layer's
                refresh predictors decide if None.
            cache: The layer's last; None where a stream begins.
            return_stats: Whether to give statistics of the local path's attention weights.
        """
        layer = self.layer(index)
        if not layer.batch_is_one:
            return layer.outcome(
                hidden, actions, refresh=refresh, cache=cache, return_stats=return_stats
            )
        outcomes = []
        for lane in range(len(hidden)):
            row = operator.itemgetter(slice(lane, lane + 1))
            own = map_tensors(row, (hidden, actions))
            own_refresh, own_cache = map_tensors(row, (refresh, cache))
            outcomes.append(
                layer.outcome(*own, refresh=own_refresh, cache=own_cache, return_stats=return_stats)
            )
        # The layer's own kind would take them for one lane again.
        return Outcome(**vars(joined(outcomes)))

    @abstractmethod
    def embed(self, content: Tensor) -> Tensor:
        """Turn a chunk of content into the first layer's input.

        Args:
            content: Bytes, int64 of shape (lanes, tokens), or frames, float32 of shape
                (lanes, tokens, channels).

        Returns:
            Shape (lanes, tokens, dims).
        """

    def follow(self, index: int, hidden: Tensor, outcome: Outcome) -> Tensor:
        """Turn what a layer did into the input of the next: its output.

        Args:
            index: Of the layer.
            hidden: The layer's input, shape (lanes, tokens, dims).
            outcome: What it did.
        """
        del index, hidden
        return outcome.output

    def bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Judge what leaves the last layer by the task that the stack was trained on.

        Args:
            hidden: Shape (lanes, tokens, dims).
            targets: Classes, int64 of shape (lanes, tokens); `NO_TARGET` where there is none.

        Returns:
            Mean cross entropy of each lane's targets in bits, shape (lanes,).

        Raises:
            NotImplementedError: The stack was trained on no task.
        """
        raise NotImplementedError(f"{type(self).__name__} has classes, but no bits()")


class BareStack(Stack):
    """Layers one after the other, as they are, on an embedding with random weights.

    Bytes are looked up in the embedding, frames are multiplied by it.

    Args:
        layers: The layers.
        embedding: Shape (256, dims), or (channels, dims) for frames; see `draw_embedding`.
    """

    embedding: Tensor

    def __init__(self, layers: Sequence[IntegratedAttention], embedding: Tensor) -> None:
        super().__init__(layers)
        own = layers[0].projection.weight
        self.register_buffer("embedding", embedding.to(own.device, own.dtype), persistent=False)

    def embed(self, content: Tensor) -> Tensor:
        """Look bytes up, or project frames."""
        if content.dtype == torch.int64:
            return self.embedding[content]
        return content.to(self.embedding.dtype) @ self.embedding


def draw_embedding(dims: int, channels: int, generator: torch.Generator) -> Tensor:
    """An embedding of N(0, 1), for frames divided by the root of their channels.

    Args:
        dims: Width of the layers.
        channels: Channels of a frame; 0 for bytes.
        generator: What to draw from, on the CPU.
    """
    drawn = torch.randn(channels or BYTES, dims, generator=generator)
    return drawn / math.sqrt(channels) if channels else drawn


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of a `BlockStack`.

    Attributes:
        layers: Blocks.
        dims: Width.
        heads: Attention heads of a block; half of its local heads are shifted.
        ctx: Longest chunk, in tokens.
        win_size: Window at the longest span, in tokens.
        max_span: Longest span, in tokens.
        causal: Whether a token sees none after it.
        hidden: Width of the feed-forward parts.
        classes: What is told apart.

    Raises:
        ValueError: A size breaks its rule.
    """

    layers: int = 2
    dims: int = 64
    heads: int = 4
    ctx: int = 256
    win_size: int = 32
    max_span: int = 288
    causal: bool = True
    hidden: int = 128
    classes: int = BYTES

    @property
    def max_dist(self) -> int:
        """Upper bound on the span, in tokens: none but the longest span itself."""
        return self.max_span


class BlockStack(Stack):
    """A small transformer on bytes: blocks of attention and feed-forward, each with its residual.

    The attention's local paths learn projections, take one pass, and half of their heads are
    shifted, so that a long span can be used (`spangym.attention.SlidingWindowAttention`); an action
    is a share of the longest span. Keys and values of the global paths are computed anew for each
    chunk, unless that is decided from outside: chunks are learnt from one by one.

    Args:
        sizes: Sizes.
        generator: Source of the initial weights; torch's default generator if None.
    """

    def __init__(self, sizes: BlockSizes, generator: torch.Generator | None = None) -> None:
        super().__init__(
            [
                IntegratedAttention(
                    sizes.ctx,
                    sizes.dims,
                    sizes.heads,
                    sizes.max_span,
                    sizes.win_size,
                    sizes.max_span,
                    sharpen="none",
                    causal=sizes.causal,
                    action_scale="absolute",
                    local_projections=True,
                    focus_steps=1,
                    shifted_heads=sizes.heads // 2,
                    generator=generator,
                )
                for _ in range(sizes.layers)
            ]
        )
        for layer in self.layers:
            attention = cast(AdaptiveUpdateAttention, layer.attn_global)
            attention.key_update_predictor.always()
            attention.value_update_predictor.always()
        self.sizes = sizes
        self.classes = sizes.classes
        dims = sizes.dims
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(BYTES, dims)
            self.positions = nn.Parameter(torch.zeros(sizes.ctx, dims))
            self.feed_forward = nn.ModuleList(
                nn.Sequential(
                    nn.LayerNorm(dims),
                    nn.Linear(dims, sizes.hidden),
                    nn.GELU(),
                    nn.Linear(sizes.hidden, dims),
                )
                for _ in range(sizes.layers)
            )
            self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, sizes.classes))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)
        for part in (self.feed_forward, self.head):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    bound = 1 / math.sqrt(module.in_features)
                    nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                    nn.init.zeros_(module.bias)

    def embed(self, content: Tensor) -> Tensor:
        """Embed bytes at their positions."""
        return self.tokens(content) + self.positions[: content.shape[1]]

    def follow(self, index: int, hidden: Tensor, outcome: Outcome) -> Tensor:
        """Add the layer's output, then the feed-forward part's."""
        hidden = hidden + outcome.output
        return hidden + self.feed_forward[index](hidden)

    def bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of each lane's targets in bits, shape (lanes,)."""
        logits = self.head(hidden).transpose(1, 2)
        losses = nn.functional.cross_entropy(
            logits, targets, ignore_index=NO_TARGET, reduction="none"
        )
        counted = (targets != NO_TARGET).sum(1)
        return losses.sum(1) / counted.clamp_min(1) / math.log(2)
