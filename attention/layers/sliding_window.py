"""The local path: windows that attend to their interval of keys in several refinement passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spangym.attention.features import zero_padding
from spangym.attention.kernels.decoding import attend_to_cache
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.layers.adaptive_span import (
    AdaptiveSpan,
    LocalAttentionOutput,
    attention_dtype,
)
from spangym.attention.layers.decoding_cache import LocalDecodingCache, RollingBuffer
from spangym.attention.layers.modules import ProjectionModule, merge_heads, split_heads
from spangym.attention.span_config import SpanConfig
from spangym.attention.validation import check, check_sizes

_BLOCK = 128
"""Tokens that are decoded together."""


class SlidingWindowAttention(AdaptiveSpan):
    """Local attention of sliding windows with refinement.

    Queries, keys and values are the input itself, split into heads, or projections of it
    (``local_projections``). Windows, intervals and scores are those of `AdaptiveSpan`.

    Each refinement pass adds the output to the queries, ``q <- q + out``; keys and values stay. A
    window stops when ``d < 1e-4 + 0.1·d``, ``d`` the mean absolute change of its output. With
    ``causal`` each query stops separately, so that later queries cannot affect earlier ones.

    In the first ``num_induction_heads`` heads the key of a token is that of the previous token, 0
    for the first. A query that matches a token therefore reads the value of the token after it, and
    one layer can continue a repeated sequence (Olsson et al., In-context Learning and Induction
    Heads, 2022).

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        config: Span options.

    Example:
        >>> local = SlidingWindowAttention(16, 2, SpanConfig(win_size=4, max_span=8))
        >>> x = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(0))
        >>> result = local(x, torch.ones(1))
        >>> result.output.shape, 1 <= result.num_refinement_steps.item() <= 10
        (torch.Size([1, 10, 16]), True)
    """

    def __init__(self, dims: int, head: int, config: SpanConfig) -> None:
        super().__init__(head, config)
        _, dims, head = check_sizes(1, dims, head)
        shifted = config.num_induction_heads
        in_range = f"num_induction_heads must be in 0..head, got {shifted}, head={head}"
        check([(0 <= shifted <= head, in_range)])
        self.projections = None
        if config.local_projections:
            names = ("query", "key", "value")
            self.projections = nn.ModuleDict({name: ProjectionModule(dims, head) for name in names})

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        scale: Tensor,
        xa: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        projected: tuple[Tensor, Tensor, Tensor] | None = None,
        full_lse: Tensor | None = None,
        return_stats: bool = False,
        return_weights: bool = False,
    ) -> LocalAttentionOutput:
        """Attend from ``x`` to ``xa``, or to ``x`` itself if None; see `AdaptiveSpan.forward`.

        Cross-attention pairs positions: a window of ``x`` attends to its interval of ``xa``, and
        to all of that interval with ``causal`` too. ``projected`` and ``full_lse`` are the results
        of `project` and `full_log_sum_exp` for these inputs, if they are known.
        """
        source = x if xa is None else xa
        self._check(x, source, source, scale, mask, lengths, key_lengths)
        if projected is None:
            projected = self.project(x, xa, lengths=lengths, key_lengths=key_lengths)
        return self._attend(
            *projected,
            scale,
            mask,
            lengths,
            key_lengths,
            self.config.num_refinement_steps,
            xa is not None,
            return_stats,
            return_weights,
            full_lse,
        )

    def project(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each of shape (batch, tokens, dims); arguments of `forward`."""
        queries = zero_padding(x, lengths)
        source = queries
        if xa is not None or key_lengths is not lengths:
            source = zero_padding(x if xa is None else xa, key_lengths).to(x.dtype)
        query, key, value = self._project(queries, source)
        return query, self._shift(key), value

    def _project(self, queries: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`project` before the keys of the induction heads are shifted."""
        if self.projections is None:
            return queries, source, source
        query, key, value = self.projections.values()
        return merge_heads(query(queries)), merge_heads(key(source)), merge_heads(value(source))

    def _shift(self, keys: Tensor, last_keys: Tensor | None = None) -> Tensor:
        """Keys with those of the induction heads moved to the next token.

        ``last_keys`` are those of the token before the first one, shape (batch, 1, dims); 0 if
        None.
        """
        if not self.config.num_induction_heads:
            return keys
        width = keys.shape[-1] // self.head * self.config.num_induction_heads
        moved = keys[..., :width]
        if last_keys is None:
            moved = nn.functional.pad(moved, (0, 0, 1, 0))
        else:
            moved = torch.cat([last_keys[..., :width], moved], dim=1)
        return torch.cat([moved[:, :-1], keys[..., width:]], dim=-1)

    @torch.no_grad()
    def decode(
        self, x: Tensor, scale: Tensor, cache: LocalDecodingCache | None = None
    ) -> tuple[Tensor, LocalDecodingCache]:
        """Attend like `forward` from the next tokens of a sequence, without gradients.

        Windows follow one another from the first token on, in calls with any numbers of tokens.
        Where the span scale of a sequence is not that of the previous call, a new window begins at
        the first token of ``x``.

        Args:
            x: Next tokens, shape (batch, tokens, dims).
            scale: Span scale of each sequence, shape (batch,), in [0, 1].
            cache: Cache of the tokens before, which is updated; None at the first token.

        Returns:
            Output, shape (batch, tokens, dims), and the cache.

        Raises:
            ValueError: A shape, type or value is wrong, or the layer is not causal.
        """
        self._check(x, x, x, scale, None, None, None)
        check([(self.config.causal, "decoding needs a causal layer: SpanConfig(causal=True)")])
        cache = self.new_decoding_cache(scale) if cache is None else cache
        cache.set_scale(scale)
        q, new_keys, v = self._project(x, x)
        k = self._shift(new_keys, cache.last_keys)
        dtype = attention_dtype(x)
        query, key = (split_heads(each, self.head).to(dtype) for each in (q, k))
        value = key if v is k else split_heads(v, self.head).to(dtype)
        if cache.num_tokens == 0:
            # The first tokens of a sequence are a whole one, which all kernels take.
            steps = self.config.num_refinement_steps
            output = self._attend(q, k, v, scale, None, None, None, steps, False, False, False)
            output = output.output
            cache.append(key, value)
        else:
            output = self._decode_heads(query, key, value, cache)
        if self.config.num_induction_heads:
            cache.last_keys = new_keys[:, -1:].clone()
        return output, cache

    def _decode_heads(
        self, query: Tensor, key: Tensor, value: Tensor, cache: LocalDecodingCache
    ) -> Tensor:
        """Attend from next tokens, shape (batch, heads, tokens, head size), to cached ones too."""
        scale, dtype = cache.scale, query.dtype
        spans, gain = self.spans(scale), self._gain(scale, dtype)
        inverse_temperature = self._inverse_temperature(scale, dtype)
        outputs = []
        # With short blocks the number of scored pairs grows linearly with the number of tokens.
        for block in zip(*(each.split(_BLOCK, dim=2) for each in (query, key, value)), strict=True):
            block_query, *block_key_value = block
            first, count = cache.num_tokens, block_query.shape[2]
            keys, values, positions = cache.extend(*block_key_value)
            inputs = KernelInputs(
                block_query,
                keys,
                values if gain is None else values * gain,
                spans,
                steps=self.config.num_refinement_steps,
                inverse_temperature=inverse_temperature,
            )
            queries = torch.arange(first, first + count, device=query.device)
            outputs.append(attend_to_cache(inputs, queries, positions, cache.first_window))
        return merge_heads(torch.cat(outputs, dim=2))

    def new_decoding_cache(self, scale: Tensor) -> LocalDecodingCache:
        """An empty cache of `decode` for sequences of these span scales, shape (batch,)."""
        config = self.config
        longest = min(config.max_span, config.max_dist)
        capacity = longest + config.soft_edge_width * config.soft_span
        keys = values = RollingBuffer(capacity)
        if config.local_projections or config.num_induction_heads:
            values = RollingBuffer(capacity)
        return LocalDecodingCache(keys, values, scale, torch.zeros_like(scale, dtype=torch.int64))
