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

from spangym.attention import AdaptiveUpdateAttention, IntegratedAttention, LayerCache, LayerOutput
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.state import concat_trees, tree_map


class LayerStack(nn.Module, ABC):
    """Live layers and what stands around them.

    Args:
        layers: The layers, all of one width.

    Attributes:
        num_classes: What `loss_bits` tells apart; 0 for a stack that was trained on no task.
    """

    num_classes: int = 0

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

    def run_layer(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        *,
        recompute_kv: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run one of the layers, so that no batch element hangs on those beside it.

        Args:
            index: Of the layer.
            hidden: Its input, shape (batch, tokens, dims).
            actions: Integers 0..9 of shape (batch,); the layer's predictor decides if None.
            recompute_kv: Whether keys, and values, are computed anew, boolean (batch, 2); the layer's
                refresh predictors decide if None.
            cache: The layer's last; None where a stream begins.
            return_stats: Whether to give statistics of the local path's attention weights.
        """
        layer = self.layer(index)
        if not layer.single_span_per_batch:
            return layer.forward_with_action(
                hidden, actions, recompute_kv=recompute_kv, cache=cache, return_stats=return_stats
            )
        outcomes = []
        for index in range(len(hidden)):
            row = operator.itemgetter(slice(index, index + 1))
            own = tree_map(row, (hidden, actions))
            own_recompute_kv, own_cache = tree_map(row, (recompute_kv, cache))
            outcomes.append(
                layer.forward_with_action(
                    *own, recompute_kv=own_recompute_kv, cache=own_cache, return_stats=return_stats
                )
            )
        # The layer's own kind would take them for one batch element again.
        return LayerOutput(**vars(concat_trees(outcomes)))

    @abstractmethod
    def embed(self, content: Tensor) -> Tensor:
        """Turn a chunk of content into the first layer's input.

        Args:
            content: Bytes, int64 of shape (batch, tokens), or frames, float32 of shape
                (batch, tokens, channels).

        Returns:
            Shape (batch, tokens, dims).
        """

    def connect(self, index: int, hidden: Tensor, outcome: LayerOutput) -> Tensor:
        """Turn what a layer did into the input of the next: its output.

        Args:
            index: Of the layer.
            hidden: The layer's input, shape (batch, tokens, dims).
            outcome: What it did.
        """
        del index, hidden
        return outcome.output

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Judge what leaves the last layer by the task that the stack was trained on.

        Args:
            hidden: Shape (batch, tokens, dims).
            targets: Classes, int64 of shape (batch, tokens); `NO_TARGET` where there is none.

        Returns:
            Mean cross entropy of each batch element's targets in bits, shape (batch,).

        Raises:
            NotImplementedError: The stack was trained on no task.
        """
        raise NotImplementedError(f"{type(self).__name__} has classes, but no loss_bits()")


class AttentionOnlyStack(LayerStack):
    """Layers one after the other, as they are, on an embedding with random weights.

    Bytes are looked up in the embedding, frames are multiplied by it.

    Args:
        layers: The layers.
        embedding: Shape (256, dims), or (channels, dims) for frames; see `random_embedding`.
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


def random_embedding(dims: int, channels: int, generator: torch.Generator) -> Tensor:
    """An embedding of N(0, 1), for frames divided by the root of their channels.

    Args:
        dims: Width of the layers.
        channels: Channels of a frame; 0 for bytes.
        generator: What to draw from, on the CPU.
    """
    drawn = torch.randn(channels or BYTES, dims, generator=generator)
    return drawn / math.sqrt(channels) if channels else drawn


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `TransformerStack`.

    Attributes:
        num_layers: Blocks.
        dims: Width.
        heads: Attention heads of a block; half of its local heads are shifted.
        ctx: Longest chunk, in tokens.
        win_size: Window at the longest span, in tokens.
        max_span: Longest span, in tokens.
        causal: Whether a token sees none after it.
        hidden: Width of the feed-forward parts.
        num_classes: What is told apart.

    Raises:
        ValueError: A size breaks its rule.
    """

    num_layers: int = 2
    dims: int = 64
    heads: int = 4
    ctx: int = 256
    win_size: int = 32
    max_span: int = 288
    causal: bool = True
    hidden: int = 128
    num_classes: int = BYTES

    @property
    def max_dist(self) -> int:
        """Upper bound on the span, in tokens: none but the longest span itself."""
        return self.max_span


class TransformerStack(LayerStack):
    """A small transformer on bytes: blocks of attention and feed-forward, each with its residual.

    The attention's local paths learn projections, take one pass, and half of their heads are
    shifted, so that a long span can be used (`spangym.attention.SlidingWindowAttention`); an action
    is a share of the longest span. Keys and values of the global paths are computed anew for each
    chunk, unless that is decided from outside: chunks are learned from one by one.

    Args:
        config: Sizes.
        generator: Source of the initial weights; torch's default generator if None.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(
            [
                IntegratedAttention(
                    config.ctx,
                    config.dims,
                    config.heads,
                    config.max_span,
                    config.win_size,
                    config.max_span,
                    temperature_law="none",
                    causal=config.causal,
                    action_scale="absolute",
                    local_projections=True,
                    num_refinement_steps=1,
                    num_induction_heads=config.heads // 2,
                    generator=generator,
                )
                for _ in range(config.num_layers)
            ]
        )
        for layer in self.layers:
            attention = cast(AdaptiveUpdateAttention, layer.attn_global)
            attention.key_update_predictor.set_always_recompute()
            attention.value_update_predictor.set_always_recompute()
        self.config = config
        self.num_classes = config.num_classes
        dims = config.dims
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(BYTES, dims)
            self.positions = nn.Parameter(torch.zeros(config.ctx, dims))
            self.feed_forward = nn.ModuleList(
                nn.Sequential(
                    nn.LayerNorm(dims),
                    nn.Linear(dims, config.hidden),
                    nn.GELU(),
                    nn.Linear(config.hidden, dims),
                )
                for _ in range(config.num_layers)
            )
            self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, config.num_classes))
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

    def connect(self, index: int, hidden: Tensor, outcome: LayerOutput) -> Tensor:
        """Add the layer's output, then the feed-forward part's."""
        hidden = hidden + outcome.output
        return hidden + self.feed_forward[index](hidden)

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of each batch element's targets in bits, shape (batch,)."""
        logits = self.head(hidden).transpose(1, 2)
        losses = nn.functional.cross_entropy(
            logits, targets, ignore_index=NO_TARGET, reduction="none"
        )
        counted = (targets != NO_TARGET).sum(1)
        return losses.sum(1) / counted.clamp_min(1) / math.log(2)
