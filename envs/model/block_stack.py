"""Stacks that read a document block by block, with a key-value cache that is trimmed."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from spangym.attention import LayerCache, LayerOutput
from spangym.attention.layers.local_global import ControllerInput
from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.model.block_cache import BlockCache
from spangym.envs.model.chosen_spans import ChosenSpanStack, observe_input
from spangym.envs.model.pretrained_sizes import past_pairs
from spangym.envs.state import Cache


@dataclass(frozen=True)
class PreparedBlock:
    """The part of a decision's pass that does not depend on the action.

    Attributes:
        tokens: The document, int64 (batch, ctx).
        cache: Keys and values before they are trimmed.
        observed: Layer-normalized embeddings of the last block read, and their features.
    """

    tokens: Tensor
    cache: BlockCache
    observed: ControllerInput

    @property
    def cache_features(self) -> Tensor | None:
        """Attention shares and size of the cache, shape (batch, cuts + 1), if they are known."""
        shares, is_held = self.cache.cut_shares, self.cache.is_held
        if shares is None:
            return None
        return torch.cat([shares, is_held.to(shares).mean(1, keepdim=True)], dim=1)


@dataclass(frozen=True)
class BlockOutput(LayerOutput):
    """Results of a decision and of the block that is read after it.

    Attributes:
        nats: Losses of the next tokens, shape (batch, block), in nats; empty where targets are
            classes, whose losses are computed from ``output``.
    """

    nats: Tensor = dataclasses.field(default_factory=Tensor)


class BlockStack(ChosenSpanStack):
    """Reads documents block by block; a "layer" is a decision between two blocks.

    Before each block but the first, the action says how many of the last tokens stay in the
    key-value cache in addition to the sinks; the rest is gone. Then the block is read.

    Subclasses call `set_blocks`.
    """

    def set_blocks(self, ctx: int, num_blocks: int, sinks: int) -> None:
        """Set the tokens of a document, its blocks of equal length, and the first tokens that stay.

        Args:
            ctx: Tokens of a document.
            num_blocks: Number of blocks, at least 2; one more than there are decisions.
            sinks: First tokens of a document that stay.
        """
        self._ctx, self._block, self._sinks = ctx, ctx // num_blocks, sinks

    def embed(self, content: Tensor) -> Tensor:
        """Return the tokens as they are: a block is embedded when it is read."""
        return content

    @abstractmethod
    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed tokens, of which the observation is computed, shape (batch, block, dims)."""

    def normalize_input(self, index: int, hidden: Tensor) -> Tensor:
        """Normalize the embeddings of the last block that was read before a decision."""
        block = hidden[:, index * self._block : (index + 1) * self._block]
        return self.group(index).ln_a(self.embed_tokens(block))

    def carry(self, caches: tuple[Any, ...], index: int, cache: Any) -> tuple[Any, ...]:
        """Give the next decision the keys and values, and forget those of this one."""
        following = [None] * len(caches)
        if index + 1 < len(caches):
            following[index + 1] = cache
        return tuple(following)

    def full_qk_pairs(self, index: int, ctx: int) -> int:
        """Pairs of the queries of the next block and of all tokens before it."""
        return past_pairs(ctx, self.num_layers + 1, index)

    def connect(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Return the tokens."""
        del index, output
        return hidden

    def prepare_layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        recompute_kv: Tensor | None = None,
        cache: Cache | None = None,
    ) -> PreparedBlock:
        """Compute the features of the last block."""
        del recompute_kv
        local_input = self.normalize_input(index, hidden)
        return PreparedBlock(hidden, cast(BlockCache, cache), observe_input(local_input))

    def _trim(self, index: int, cache: BlockCache, spans: Tensor) -> BlockCache:
        """Forget all keys and values before decision ``index`` but those that are to stay."""
        position = torch.arange(self._ctx, device=spans.device)
        stays = (position >= (index + 1) * self._block - spans[:, None]) | (position < self._sinks)
        is_held = cache.is_held & stays
        shown = is_held[:, None, None, :, None]
        return BlockCache(cache.keys * shown, cache.values * shown, is_held)

    def _make_output(
        self,
        index: int,
        prepared: PreparedBlock,
        held: Tensor,
        cache: BlockCache | None,
        output: Tensor,
        **more: Any,
    ) -> BlockOutput:
        """Return the results of a decision.

        Args:
            index: Index of the decision.
            prepared: What was prepared.
            held: Number of tokens that stayed, int64 of shape (batch,).
            cache: The cache with the block that was read after it.
            output: Last hidden states of this block, shape (batch, block, dims).
            **more: Other fields of a `BlockOutput`.
        """
        ones, past = torch.ones_like(held), (index + 1) * self._block
        return BlockOutput(
            output=output,
            local_input=prepared.observed.local_input,
            local_output=self.group(index).ln_a(output),
            span_scale=held.float() / past,
            window=ones,
            span=held,
            qk_pairs=held * self._block,
            num_refinement_steps=ones,
            obs_features=prepared.observed.obs_features,
            cache=cast(LayerCache, cache),
            **more,
        )

    def step_loss(
        self, index: int, layer_output: LayerOutput, hidden: Tensor, targets: Tensor
    ) -> Tensor | None:
        """Return the next block's part of the loss of all decided blocks, in bits a target.

        A target counts as many times as it has `target_sizes`.
        """
        del hidden
        start = (index + 1) * self._block
        own = targets[:, start : start + self._block]
        sizes = self.target_sizes(targets) * (targets != NO_TARGET)
        total = sizes[:, self._block :].sum(1).clamp_min(1)
        nats = self.block_nats(cast(BlockOutput, layer_output), own) * (own != NO_TARGET)
        return nats.sum(1) / total / math.log(2)

    @abstractmethod
    def target_sizes(self, targets: Tensor) -> Tensor:
        """Return the units of each target, int64 of the same shape, (batch, ctx)."""

    @abstractmethod
    def block_nats(self, block_output: BlockOutput, targets: Tensor) -> Tensor:
        """Return the losses of a block's targets in nats, both of shape (batch, block)."""
