"""The original's local path; `spangym.attention.original.layer` lists its defects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats, compute_attention_stats
from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import softmax_attention, to_additive_mask
from spangym.attention.layers.adaptive_span import LocalAttentionOutput
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.original.truncation import (
    OriginalSpanConfig,
    scaled_attention,
    truncated_attention,
)
from spangym.attention.span_config import SpanConfig


class OriginalSlidingWindowAttention(SlidingWindowAttention):
    """The original's local path, with one span for the whole batch."""

    config: OriginalSpanConfig

    def __init__(self, dims: int, head: int, config: SpanConfig) -> None:
        super().__init__(dims, head, config)
        # Unused; the original's state dicts contain it.
        self.span_scale = nn.Parameter(torch.ones(()))

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        scale: Tensor,
        *_: Tensor | None,
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        return_stats: bool = False,
        return_weights: bool = False,
        **__: Tensor | None,
    ) -> LocalAttentionOutput:
        """Attend to ``x`` itself within the mean span scale; ``xa`` and ``mask`` are ignored.

        Coverage is the fraction of full bidirectional attention's weight on the visible keys.

        Raises:
            ValueError: Lengths are given.
            NotImplementedError: Weights are requested.
        """
        if torch.compiler.is_exporting():
            raise RuntimeError(
                "torch.export cannot record an original layer, which loops over windows whose "
                "number depends on the input"
            )
        if return_weights:
            raise NotImplementedError("the original layer has no matrix of attention weights")
        if lengths is not None or key_lengths is not None:
            raise ValueError("the original layer does not support lengths: pass none")
        scale = scale.mean().expand_as(scale)
        spans = self.config.spans(scale)
        tokens, window, span = x.shape[1], int(spans.window[0]), int(spans.span[0])
        temperature = None
        if self.config.uses_temperature:
            temperature = float(self.temperature(scale[0].detach().double()))
        out, last_query = torch.zeros_like(x), torch.zeros_like(x)
        passes = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        for start in range(0, tokens, window) if span else ():
            rows = slice(start, start + window)
            first = max(0, start - span + window)
            keys = x[:, first : start + span]
            out[:, rows], last_query[:, rows], passes[:, rows] = self._refine(
                x[:, rows], keys, start - first, float(scale[0]), temperature
            )
        first, end = self.config.visible_range(spans, tokens)
        qk_pairs, steps = ((end - first) * passes).sum(-1), passes.amax(-1)
        stats = None
        if return_stats:
            weight_stats = self._stats(x, last_query, passes, temperature, spans)
            stats = AttentionStats(spans.window, spans.span, qk_pairs, steps, *weight_stats)
        return LocalAttentionOutput(out, spans, qk_pairs, steps, stats)

    def _refine(
        self, q: Tensor, keys: Tensor, offset: int, scale: float, temperature: float | None
    ) -> tuple[Tensor, Tensor, int]:
        """Output, last queries and passes of a window that starts at ``offset`` in its keys."""
        previous = torch.zeros_like(q)
        steps = 0
        while True:
            steps += 1
            out = self._attend_once(q, keys, offset, scale, temperature)
            change = (out - previous).abs().mean()
            if steps == self.config.num_refinement_steps or change < 1e-4 + 0.1 * change:
                return out, q.detach(), steps
            previous, q = out, q + out

    def _attend_once(
        self, q: Tensor, keys: Tensor, offset: int, scale: float, temperature: float | None
    ) -> Tensor:
        config = self.config
        if config.truncate_keys:
            return truncated_attention(
                q,
                keys,
                keys,
                scale=scale,
                head=self.head,
                config=config,
                temperature=temperature,
                causal=config.slice_causal,
            )
        mask = None
        if config.slice_causal:
            mask = q.new_ones(q.shape[1], keys.shape[1], dtype=torch.bool).tril(offset)
        query, key = split_heads(q, self.head), split_heads(keys, self.head)
        return merge_heads(scaled_attention(query, key, key, config, temperature, mask=mask))

    @torch.no_grad()
    def _stats(
        self,
        x: Tensor,
        last_query: Tensor,
        passes: Tensor,
        temperature: float | None,
        spans: SpanGeometry,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Entropy, effective span and coverage of the last passes."""
        key, query = split_heads(x, self.head), split_heads(last_query, self.head)
        query = query / (temperature or 1.0)
        if not self.config.fused:
            # The statistics scale scores by ``head_size ** -0.5``.
            query = query * query.shape[-1] ** (self.config.score_exponent + 0.5)
        first, end = self.config.visible_range(spans, x.shape[1])
        position = torch.arange(x.shape[1], device=x.device)
        visible = (position >= first[..., None]) & (position < end[..., None])
        bias = to_additive_mask(visible, x.dtype)[:, None]
        output, lse = softmax_attention(query, key, key, bias)
        kernel_output = KernelOutput(output, passes, lse, query)
        return compute_attention_stats(KernelInputs(query, key, key, spans), kernel_output)
