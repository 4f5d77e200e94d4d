"""Multi-head attention to blocks of tokens: a global path at a fraction of the cost."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spangym.attention.kernels.reference import attention_weights, to_additive_mask
from spangym.attention.layers.decoding_cache import GlobalDecodingCache, PooledDecodingCache
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.validation import check, check_floats, check_mask
from spangym.utils.scalars import as_int


class PooledAttention(MultiHeadAttention):
    """Multi-head attention whose keys and values are means of blocks of ``pool`` tokens.

    Block ``j`` holds the tokens ``j * pool`` to ``j * pool + pool - 1``; the last one may be
    shorter. Its key and its value are projections of the mean of its tokens. The scores cost
    ``1 / pool`` of those of `MultiHeadAttention`, whose parameters it has.

    With ``causal`` a query sees the complete blocks before its own. Queries of the first block see
    nothing, and the output before the output projection is 0.

    Padding does not enter a mean, nor does a token that a mask hides from all queries. The bias of
    a block is the mean of the biases of its other tokens: a block with a token that is hidden from
    a query is hidden from it as a whole.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        causal: Whether a query sees only earlier blocks; cross-attention is never causal.
        pool: Tokens of a block, at least 1.

    Example:
        >>> attention = PooledAttention(16, head=4, pool=4)
        >>> attention(torch.randn(2, 10, 16)).shape, attention.qk_pairs(10)
        (torch.Size([2, 10, 16]), 30)
    """

    def __init__(self, dims: int, head: int, causal: bool = False, pool: int = 16) -> None:
        super().__init__(dims, head, causal)
        self.pool = as_int("pool", pool, 1)

    def extra_repr(self) -> str:
        """Causality and size of a block."""
        return ", ".join(filter(None, [super().extra_repr(), f"pool={self.pool}"]))

    def qk_pairs(self, tokens: int) -> int:
        """Query-key pairs of self-attention over so many tokens; a block is one key."""
        blocks, rest = divmod(tokens, self.pool)
        if self.causal:
            return self.pool * blocks * (blocks - 1) // 2 + rest * blocks
        return tokens * (blocks + (rest > 0))

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> Tensor:
        """Attend to the blocks, with the arguments and errors of `MultiHeadAttention.forward`."""
        x, source = self._sources(x, xa, key_lengths)
        causal = self.causal and xa is None
        blocks = self._pool(x, source, mask, key_lengths)
        query = self.query_module(x)
        key, value = self.key_module(blocks.means), self.value_module(blocks.means)
        if causal and mask is None and not torch.compiler.is_exporting():
            # Padding comes after all queries that are not padding: they see none of it.
            return self.combiner(_attend_to_earlier(query, key, value, self.pool))
        bias = self._block_bias(blocks, query, causal)
        attend = nn.functional.scaled_dot_product_attention
        if bias is None:
            return self.combiner(attend(query, key, value))
        blind = (bias == -torch.inf).all(-1, keepdim=True)
        out = attend(query, key, value, attn_mask=bias.masked_fill(blind, 0.0))
        return self.combiner(out.masked_fill(blind, 0.0))

    @torch.no_grad()
    def decode(
        self, x: Tensor, cache: GlobalDecodingCache | None = None
    ) -> tuple[Tensor, GlobalDecodingCache]:
        """Attend from the next tokens like `MultiHeadAttention.decode`.

        The cache holds one key and one value a complete block.
        """
        check_floats(x=x)
        check([(self.causal, "decoding needs a causal layer: causal=True")])
        cache = PooledDecodingCache() if cache is None else cast(PooledDecodingCache, cache)
        first, tokens = cache.num_tokens, x.shape[1]
        self._append_blocks(x, cache)
        query, blocks = self.query_module(x), (first + tokens - 1) // self.pool
        keys, values = (each.entries()[..., :blocks, :] for each in (cache.keys, cache.values))
        attend = nn.functional.scaled_dot_product_attention
        if blocks == 0:
            out = torch.zeros_like(query)
        elif first == 0:
            out = _attend_to_earlier(query, keys, values, self.pool)
        elif tokens == 1:
            out = attend(query, keys, values)
        else:
            own = torch.arange(first, first + tokens, device=x.device)[:, None] // self.pool
            visible = torch.arange(blocks, device=x.device) < own
            out = attend(query, keys, values, attn_mask=visible | (own == 0))
            out = out.masked_fill(own == 0, 0.0)
        return self.combiner(out), cache

    def _append_blocks(self, x: Tensor, cache: PooledDecodingCache) -> None:
        """Append the blocks that the next tokens complete."""
        source = x.to(torch.promote_types(x.dtype, torch.float32))
        incomplete = cache.num_tokens % self.pool
        if incomplete and cache.rest is not None:
            zeros = (0, 0, 0, incomplete - 1)
            source = torch.cat([nn.functional.pad(cache.rest, zeros), source], dim=1)
        cache.num_tokens += x.shape[1]
        complete = source.shape[1] // self.pool * self.pool
        if complete:
            means = (self._sums(source[:, :complete], source.dtype) / self.pool).to(x.dtype)
            cache.keys.append(self.key_module(means))
            cache.values.append(self.value_module(means))
        cache.rest = source[:, complete:].sum(1, keepdim=True)

    def weights(
        self, x: Tensor, xa: Tensor | None, mask: Tensor | None, key_lengths: Tensor | None
    ) -> Tensor:
        """Attention weights of `forward`, shape (batch, heads, queries, keys).

        A block's weight is shared equally by the tokens in its mean.
        """
        x, source = self._sources(x, xa, key_lengths)
        blocks = self._pool(x, source, mask, key_lengths)
        query, key = self.query_module(x), self.key_module(blocks.means)
        bias = self._block_bias(blocks, query, self.causal and xa is None)
        weights = attention_weights(query, key, query.new_zeros(1) if bias is None else bias)
        block_of = torch.arange(source.shape[1], device=x.device) // self.pool
        share = blocks.is_member / blocks.counts[:, block_of].clamp_min(1)
        return weights[..., block_of] * share[:, None, None].to(weights.dtype)

    def _pool(
        self, x: Tensor, source: Tensor, mask: Tensor | None, key_lengths: Tensor | None
    ) -> _Blocks:
        """Means of the blocks of a key input, and what masks say about them."""
        keys = source.shape[1]
        check_mask(mask, (x.shape[0], self.query_module.head, x.shape[1], keys))
        position = torch.arange(keys, device=x.device)
        is_member = torch.ones_like(position, dtype=torch.bool)[None]
        if key_lengths is not None:
            is_member = position < key_lengths[:, None]
        token_bias = None
        if mask is not None:
            token_bias = to_additive_mask(mask, x.dtype)[(None,) * (4 - mask.ndim)]
            token_bias = token_bias.expand(-1, -1, -1, keys)
            is_member = is_member & (token_bias > -torch.inf).any(2).any(1)
            source = torch.where(is_member[..., None], source, 0)
            token_bias = torch.where(is_member[:, None, None], token_bias, 0)
        precise = torch.promote_types(x.dtype, torch.float32)
        counts = self._sums(is_member[..., None], precise)[..., 0]
        divisors = counts.clamp_min(1)
        means = (self._sums(source, precise) / divisors[..., None]).to(x.dtype)
        if token_bias is not None:
            sums = self._sums(token_bias.transpose(-1, -2), precise).transpose(-1, -2)
            token_bias = (sums / divisors[:, None, None]).to(x.dtype)
        is_known = mask is None and key_lengths is None and not torch.compiler.is_exporting()
        return _Blocks(means, counts, is_member, token_bias, not is_known)

    def _sums(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Sums over the blocks of tokens, the last dimension but one."""
        if torch.compiler.is_exporting():
            # A number of blocks would restrict the lengths: one block a token, most of them empty.
            block_of = torch.arange(x.shape[-2], device=x.device) // self.pool
            return torch.zeros_like(x, dtype=dtype).index_add(-2, block_of, x.to(dtype))
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[-2] % self.pool))
        return x.unflatten(-2, (-1, self.pool)).sum(-2, dtype=dtype)

    def _block_bias(self, blocks: _Blocks, query: Tensor, causal: bool) -> Tensor | None:
        """Bias of the scores, broadcastable to (batch, heads, queries, blocks)."""
        biases = [] if blocks.bias is None else [blocks.bias]
        if blocks.may_be_empty:
            biases.append(to_additive_mask(blocks.counts > 0, query.dtype)[:, None, None])
        if causal:
            own = torch.arange(query.shape[2], device=query.device)[:, None] // self.pool
            earlier = torch.arange(blocks.means.shape[1], device=query.device) < own
            biases.append(to_additive_mask(earlier, query.dtype))
        return sum(biases[1:], start=biases[0]) if biases else None


class _Blocks(NamedTuple):
    """Blocks of a key input."""

    means: Tensor  # (batch, blocks, dims)
    counts: Tensor  # tokens in the means, (batch or 1, blocks)
    is_member: Tensor  # tokens that are in a mean, (batch or 1, keys)
    bias: Tensor | None  # of a mask, broadcastable to (batch, heads, queries, blocks)
    may_be_empty: bool  # whether a block may have no tokens


def _attend_to_earlier(query: Tensor, key: Tensor, value: Tensor, pool: int) -> Tensor:
    """Attention of each query to the blocks before its own; 0 in the first block.

    The queries at the same place of their blocks form a causal sequence over the blocks, which the
    fused call takes without a mask.

    Args:
        query: Shape (batch, heads, tokens, head size).
        key: Keys of the blocks, shape (batch, heads, blocks, head size).
        value: Their values, same shape.
        pool: Tokens of a block.
    """
    batch, _, tokens, _ = query.shape
    first = query[:, :, :pool]
    if tokens <= pool:
        return torch.zeros_like(first)
    later = nn.functional.pad(query[:, :, pool:], (0, 0, 0, -tokens % pool))
    places = later.unflatten(2, (-1, pool)).transpose(2, 3).flatten(0, 1)
    blocks = places.shape[2]

    def earlier(x: Tensor) -> Tensor:
        return x[:, :, :blocks].flatten(0, 1)[:, None].expand(-1, pool, -1, -1)

    attend = nn.functional.scaled_dot_product_attention
    out = attend(places, earlier(key), earlier(value), is_causal=True)
    out = out.unflatten(0, (batch, -1)).transpose(2, 3).flatten(2, 3)
    return torch.cat([torch.zeros_like(first), out[:, :, : tokens - pool]], dim=2)
