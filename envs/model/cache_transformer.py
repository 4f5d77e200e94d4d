"""A small causal transformer that reads documents block by block, and its stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention import LayerOutput
from spangym.attention.transformers.span_choosers import FULL_SPAN, Span, parse_spans
from spangym.envs.data.dataset import BYTES
from spangym.envs.model.block_cache import BlockCache
from spangym.envs.model.block_stack import BlockOutput, BlockStack, PreparedBlock
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.chosen_spans import LayerGroup
from spangym.envs.model.pretrained_sizes import group_span_config
from spangym.envs.model.stack import draw_linear_weights


class Projected(NamedTuple):
    """What the tokens of a block give, whatever was read before.

    Attributes:
        hidden: Embeddings, shape (batch, tokens, dims).
        query: Shape (batch, heads, tokens, head_dim).
        key: The same.
        value: The same.
    """

    hidden: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


class CacheTransformer(nn.Module):
    """One transformer block on bytes, whose heads are induction heads.

    The key of a token is computed from the token before it in its block, so that a query finds what
    followed the same token earlier. A learned sink, one score a head without a value, takes the
    attention of queries that need nothing. Keys and values of a block do not depend on other
    blocks: what is dropped from the cache leaves no trace in what was read later.

    Args:
        config: Sizes.
        generator: Source of the initial weights; torch's default generator if None.
    """

    def __init__(
        self, config: CacheTransformerConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config, dims = config, config.dims
        # Modules draw default weights from the global generator before they are drawn again below.
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(BYTES, dims)
            self.norm = nn.LayerNorm(dims)
            self.query, self.key, self.value, self.projection = (
                nn.Linear(dims, dims) for _ in range(4)
            )
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(dims),
                nn.Linear(dims, config.hidden),
                nn.GELU(),
                nn.Linear(config.hidden, dims),
            )
            self.sink = nn.Parameter(torch.full((config.heads,), 3.0))
            self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, config.num_classes))
        nn.init.normal_(self.tokens.weight, generator=generator)
        draw_linear_weights(self, generator)

    def project(self, tokens: Tensor) -> Projected:
        """Embed the tokens of a block, int64 of shape (batch, block), and project them."""
        hidden = self.tokens(tokens)
        normed = self.norm(hidden)
        before = nn.functional.pad(normed, (0, 0, 1, -1))
        pairs = ((self.query, normed), (self.key, before), (self.value, normed))
        parts = (module(given).unflatten(-1, (self.config.heads, -1)) for module, given in pairs)
        return Projected(hidden, *(each.transpose(1, 2) for each in parts))

    def attend(
        self, hidden: Tensor, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the transformer block.

        Args:
            hidden: Embeddings, shape (batch, tokens, dims).
            query: Shape (batch, heads, tokens, head_dim).
            keys: Shape (batch, heads, ctx, head_dim).
            values: The same.
            mask: Which keys each query sees, boolean (batch, tokens, ctx).

        Returns:
            Output, shape (batch, tokens, dims), and attention weights, (batch, heads, tokens, ctx +
            1), of which the last is that of the sink.
        """
        scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        sink = self.sink[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)
        attended = (weights[..., :-1] @ values).transpose(1, 2).flatten(-2)
        hidden = hidden + self.projection(attended)
        return hidden + self.feed_forward(hidden), weights


class CacheTransformerStack(BlockStack):
    """A `CacheTransformer` whose key-value cache is trimmed before each block but the first.

    The cost of a token in the cache is the same before every block: the unit of a decision's cost
    is the mean number of pairs over all decisions at full span.

    Args:
        model: The model.
        ctx: Tokens of a document.
        spans: Tokens that each action keeps at most, or ``full``, in ascending order.
        sinks: First tokens of a document that stay.
    """

    is_batch_invariant = True

    def __init__(
        self, model: CacheTransformer, ctx: int, *, spans: Sequence[Span], sinks: int
    ) -> None:
        config, num_blocks = model.config, ctx // model.config.block
        span_config = group_span_config(ctx, causal=True)
        groups = [LayerGroup([model], config.dims, span_config) for _ in range(num_blocks - 1)]
        super().__init__(groups, model, spans)
        self.set_blocks(ctx, num_blocks, sinks)
        self.num_classes = config.num_classes
        self._model = model
        self._cuts = [each for each in parse_spans(spans) if each < FULL_SPAN]

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Look up the embeddings."""
        return self._model.tokens(tokens)

    def full_qk_pairs(self, index: int, ctx: int) -> int:
        """Pairs of the queries of a block and of all tokens before it, the mean over the blocks."""
        del index
        blocks = ctx // self._block
        return self._block**2 * blocks // 2

    def start_caches(self, hidden: Tensor, caches: tuple[Any, ...]) -> tuple[Any, ...]:
        """Read the first block of each document."""
        config = self._model.config
        size = (len(hidden), 1, config.heads, self._ctx, config.dims // config.heads)
        empty = self._model.tokens.weight.new_zeros(size)
        is_held = torch.zeros(len(hidden), self._ctx, dtype=torch.bool, device=hidden.device)
        first, _ = self._read(hidden, 0, BlockCache(empty, empty, is_held))
        return (first, *(None for _ in caches[1:]))

    def target_sizes(self, targets: Tensor) -> Tensor:
        """Every target counts once."""
        return torch.ones_like(targets)

    def block_nats(self, block_output: BlockOutput, targets: Tensor) -> Tensor:
        """Cross entropy of a block's targets."""
        logits = self._model.head(block_output.output)
        return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    def _run(self, index: int, prepared: PreparedBlock, spans: Tensor) -> LayerOutput:
        trimmed = self._trim(index, prepared.cache, spans)
        cache, output = self._read(prepared.tokens, (index + 1) * self._block, trimmed)
        return self._make_output(index, prepared, trimmed.is_held.sum(1), cache, output)

    def _read(self, tokens: Tensor, past: int, cache: BlockCache) -> tuple[BlockCache, Tensor]:
        """Read the block after ``past`` tokens: the cache with it, and its last hidden states."""
        stop, cut_off = past + self._block, self._ctx - past - self._block
        projected = self._model.project(tokens[:, past:stop])

        def insert(old: Tensor, new: Tensor) -> Tensor:
            old = old[:, 0]
            return torch.cat([old[:, :, :past], new, old[:, :, stop:]], dim=2)

        keys, values = insert(cache.keys, projected.key), insert(cache.values, projected.value)
        size = (self._block, self._block)
        own = torch.ones(size, dtype=torch.bool, device=tokens.device).tril()
        own = nn.functional.pad(own, (past, cut_off))
        output, weights = self._model.attend(
            projected.hidden, projected.query, keys, values, cache.is_held[:, None] | own
        )
        is_held = cache.is_held | own.any(0)
        return BlockCache(keys[:, None], values[:, None], is_held, self._shares(weights, past)), (
            output
        )

    def _shares(self, weights: Tensor, past: int) -> Tensor:
        """Share of the attention that went beyond each cut, the mean over heads and queries."""
        mass = weights.flatten(1, 2).mean(1)
        starts = [max(past - cut, self._sinks) for cut in self._cuts]
        return torch.stack([mass[:, self._sinks : start].sum(1) for start in starts], dim=1)
