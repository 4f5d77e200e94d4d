"""Multi-head attention over a whole sequence: the global path of layers without a cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spangym.attention.features import zero_padding
from spangym.attention.geometry import full_qk_pairs
from spangym.attention.kernels.reference import attention_weights, to_additive_mask
from spangym.attention.layers.decoding_cache import GlobalDecodingCache
from spangym.attention.layers.modules import AttentionCombiner, ProjectionModule
from spangym.attention.validation import check, check_floats, check_lengths, check_mask, check_sizes


class MultiHeadAttention(nn.Module):
    """Full multi-head attention with scores scaled by ``1 / sqrt(head size)``.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        causal: Whether a token attends only to itself and earlier tokens; cross-attention is
            never causal.
    """

    def __init__(self, dims: int, head: int, causal: bool = False) -> None:
        super().__init__()
        _, dims, head = check_sizes(1, dims, head)
        self.causal = causal
        self.query_module = ProjectionModule(dims, head)
        self.key_module = ProjectionModule(dims, head)
        self.value_module = ProjectionModule(dims, head)
        self.combiner = AttentionCombiner(dims)

    def extra_repr(self) -> str:
        """Causality."""
        return "causal=True" if self.causal else ""

    def qk_pairs(self, tokens: int) -> int:
        """Query-key pairs of self-attention over so many tokens."""
        return full_qk_pairs(tokens, self.causal)

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> Tensor:
        """Attend over the whole sequence.

        Args:
            x: Input of the queries, shape (batch, queries, dims), float16, bfloat16, float32 or
                float64.
            xa: Input of the keys and values, shape (batch, keys, dims), cast to the dtype of ``x``;
                ``x`` if None.
            mask: Boolean (True: attend) or additive mask, broadcastable to (batch, heads, queries,
                keys).
            key_lengths: Unpadded number of keys of each sequence, shape (batch,), integers. Padding
                may hold any value and has no gradient.

        Returns:
            Shape (batch, queries, dims), in the dtype of ``x``; unspecified in the padding.

        Raises:
            ValueError: A shape or type is wrong.
        """
        x, source = self._sources(x, xa, key_lengths)
        key, value = self.key_module(source), self.value_module(source)
        causal = self.causal and xa is None
        return self._attend(self.query_module(x), key, value, mask, key_lengths, causal)

    def weights(
        self, x: Tensor, xa: Tensor | None, mask: Tensor | None, key_lengths: Tensor | None
    ) -> Tensor:
        """Attention weights of `forward`, shape (batch, heads, queries, keys)."""
        x, source = self._sources(x, xa, key_lengths)
        query, key = self.query_module(x), self.key_module(source)
        bias = self._bias(query, key, mask, key_lengths, self.causal and xa is None)
        return attention_weights(query, key, query.new_zeros(1) if bias is None else bias)

    @torch.no_grad()
    def decode(
        self, x: Tensor, cache: GlobalDecodingCache | None = None
    ) -> tuple[Tensor, GlobalDecodingCache]:
        """Attend like `forward` from the next tokens of a sequence, without gradients.

        Args:
            x: Next tokens, shape (batch, tokens, dims).
            cache: Cache of the tokens before, which is updated; None at the first token.

        Returns:
            Output, shape (batch, tokens, dims), and the cache.

        Raises:
            ValueError: A type is wrong, or the layer is not causal.
        """
        check_floats(x=x)
        check([(self.causal, "decoding needs a causal layer: causal=True")])
        query, key, value = self.query_module(x), self.key_module(x), self.value_module(x)
        cache = GlobalDecodingCache() if cache is None else cache
        first, tokens = cache.keys.num_appended, x.shape[1]
        cache.keys.append(key)
        cache.values.append(value)
        if first == 0:
            return self._attend(query, key, value, None, None, True), cache
        keys, values = cache.keys.entries(), cache.values.entries()
        mask = None
        if tokens > 1:
            mask = torch.ones(tokens, first + tokens, dtype=torch.bool, device=x.device).tril(first)
        return self._attend(query, keys, values, mask, None, False), cache

    @staticmethod
    def _sources(x: Tensor, xa: Tensor | None, key_lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs of the queries and of the keys: checked, of one dtype, with 0 in the padding."""
        source = x if xa is None else xa
        check_floats(x=x, xa=source)
        check_lengths("key_lengths", key_lengths, *source.shape[:2])
        source = zero_padding(source, key_lengths).to(x.dtype)
        return (source if xa is None else x), source

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        key_lengths: Tensor | None,
        causal: bool,
    ) -> Tensor:
        attend = nn.functional.scaled_dot_product_attention
        if mask is None and key_lengths is None:
            return self.combiner(attend(query, key, value, is_causal=causal))
        bias = self._bias(query, key, mask, key_lengths, causal)
        return self.combiner(attend(query, key, value, attn_mask=bias))

    def _bias(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        key_lengths: Tensor | None,
        causal: bool,
    ) -> Tensor | None:
        """Sum of all masks as an additive one, broadcastable to (batch, heads, queries, keys)."""
        check_mask(mask, (*query.shape[:3], key.shape[2]))
        masks = [] if mask is None else [mask]
        positions = torch.arange(key.shape[-2], device=key.device)
        if key_lengths is not None:
            masks.append((positions < key_lengths[:, None])[:, None, None])
        if causal:
            queries = torch.arange(query.shape[-2], device=key.device)
            masks.append(positions <= queries[:, None])
        biases = [to_additive_mask(each, query.dtype) for each in masks]
        return sum(biases[1:], start=biases[0]) if biases else None
