"""The original's local path; `spangym.attention.original.layer` lists its defects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats, compute_attention_stats
from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import softmax_attention, to_additive_mask
from spangym.attention.layers.adaptive_span import LocalAttentionOutput
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.span_config import SpanConfig
from spangym.utils.suggestions import did_you_mean

FIXABLE_DEFECTS = ("temperature", "local_causal", "global_causal", "double_scale", "cut")
"""Names of the defects that can be fixed (`spangym.attention.original.layer`)."""


_LACKED_OPTIONS = (
    "scale_weights",
    "causal",
    "soft_span",
    "local_projections",
    "num_induction_heads",
)


def parse_fixes(fixes: str | Iterable[str]) -> tuple[str, ...]:
    """Names of defects, without duplicates and in the order of `FIXABLE_DEFECTS`.

    Args:
        fixes: Any number of names, or one name; ``""`` is none.

    Raises:
        TypeError: It is neither a string nor strings.
        ValueError: A name is unknown; the message suggests the closest match.

    Example:
        >>> parse_fixes(["cut", "temperature"]), parse_fixes("cut")
        (('temperature', 'cut'), ('cut',))
    """
    names = [fixes] if isinstance(fixes, str) else fixes
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"fixes must be names of defects, such as ['cut'], got {fixes!r}")
    names = {*names} - {""}
    for name in sorted(names - {*FIXABLE_DEFECTS}):
        raise ValueError(f"fixes {name!r} is unknown{did_you_mean(name, FIXABLE_DEFECTS)}")
    return tuple(name for name in FIXABLE_DEFECTS if name in names)


@dataclass(frozen=True)
class OriginalSpanConfig(SpanConfig):
    """Span options of the original.

    Attributes:
        fused: Whether attention is fused (causal, without temperature); else it is not causal, and
            scores are ``q·k · head_size ** score_exponent / T``.
        score_exponent: Exponent of the head size in the scores of attention that is not fused.
        fixes: Names of the fixed defects, of `FIXABLE_DEFECTS`. A defect that a layer does not have
            needs no fix: its name changes nothing.

    Raises:
        TypeError: An option has another type.
        ValueError: An option breaks its rule, or the original lacks it.
    """

    fused: bool = True
    score_exponent: float = 0.0
    fixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fixes", parse_fixes(self.fixes))
        for name in _LACKED_OPTIONS:
            if getattr(self, name) != getattr(SpanConfig, name):
                raise ValueError(f"{name} is an option that the original lacks: omit it")

    @property
    def uses_temperature(self) -> bool:
        """Whether scores are divided by the temperature."""
        return not self.fused or "temperature" in self.fixes

    @property
    def slice_causal(self) -> bool:
        """Whether a query attends to no keys of its slice after its own position in it."""
        return self.fused and "local_causal" not in self.fixes

    @property
    def truncate_keys(self) -> bool:
        """Whether a window attends only to as many keys, from the start, as it has queries."""
        return "cut" not in self.fixes

    def spans(self, scale: Tensor) -> SpanGeometry:
        """Windows and spans of the sequences' span scales, shape (batch,)."""
        # The original bounds only what it cuts, where the bound is never reached.
        bound = None if self.truncate_keys else self.max_dist
        spans = SpanGeometry.from_scale(
            scale, win_size=self.win_size, max_span=self.max_span, max_dist=bound
        )
        off = (scale.detach().double() * self.max_span).long() == 0
        return SpanGeometry(spans.window, torch.where(off, 0, spans.span))

    def visible_range(self, spans: SpanGeometry, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of the keys of each query; see `SpanConfig.visible_range`."""
        first, end = spans.intervals(tokens)
        start = spans.window_starts(tokens)
        position = torch.arange(tokens, device=start.device)
        if self.truncate_keys:
            # Positions count from the start of the slice, where the window is not.
            queries = torch.minimum(spans.window[:, None], tokens - start)
            end = first + (position - start + 1 if self.slice_causal else queries)
        elif self.slice_causal:
            end = torch.minimum(end, position + 1)
        return first, torch.where(spans.span[:, None] > 0, end, 0)


def truncated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    head: int,
    config: OriginalSpanConfig,
    temperature: float | None = None,
) -> Tensor:
    """Attend from the first queries to as many first keys, as the original does.

    Args:
        q: Queries, shape (batch, queries, dims).
        k: Keys, shape (batch, keys, dims).
        v: Values, shape (batch, keys, dims).
        scale: Span scale in [0, 1].
        head: Number of heads.
        config: Span options.
        temperature: Divisor of the scores; None for 1.

    Returns:
        Shape (batch, n, dims), ``n = min(int(max_span * scale), queries, keys, max_dist)``.
    """
    length = min(int(config.max_span * scale), q.shape[1], k.shape[1], config.max_dist)
    query, key, value = (split_heads(each[:, :length], head) for each in (q, k, v))
    return merge_heads(_attention(query, key, value, config, temperature, config.slice_causal))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    config: OriginalSpanConfig,
    temperature: float | None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of split heads, with the original's order of operations."""
    if config.fused:
        query = query if temperature is None else query / temperature
        attend = nn.functional.scaled_dot_product_attention
        return attend(query, key, value, attn_mask=mask, is_causal=causal)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** config.score_exponent
    return (scores / (temperature or 1.0)).softmax(-1) @ value


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
            out = self._attend(q, keys, offset, scale, temperature)
            change = (out - previous).abs().mean()
            if steps == self.config.num_refinement_steps or change < 1e-4 + 0.1 * change:
                return out, q.detach(), steps
            previous, q = out, q + out

    def _attend(
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
            )
        mask = None
        if config.slice_causal:
            mask = q.new_ones(q.shape[1], keys.shape[1], dtype=torch.bool).tril(offset)
        query, key = split_heads(q, self.head), split_heads(keys, self.head)
        return merge_heads(_attention(query, key, key, config, temperature, mask=mask))

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
