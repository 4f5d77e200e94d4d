"""The original's local path, and its defects that can be fixed one at a time.

See `spangym.attention.original.layer` for what the whole layer keeps of the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats, compute_attention_stats
from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import softmax_attention, to_additive_mask
from spangym.attention.layers.adaptive_span import LocalAttentionOutput
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.layers.sliding_window import MAX_REFINEMENT_STEPS, SlidingWindowAttention
from spangym.attention.span_config import SpanConfig
from spangym.utils.suggestions import did_you_mean

FIXABLE_DEFECTS = ("temperature", "local_causal", "global_causal", "double_scale", "cut")
"""Names of the defects that can be fixed: see `spangym.attention.original.layer`."""


def check_fix(name: object) -> None:
    """Refuse what names no defect that can be fixed.

    Raises:
        ValueError: The message names the nearest.
    """
    if name not in FIXABLE_DEFECTS:
        raise ValueError(f"fixes {name!r} is unknown{did_you_mean(str(name), FIXABLE_DEFECTS)}")


@dataclass(frozen=True)
class OriginalSpanConfig(SpanConfig):
    """Options of the original's local path.

    Attributes:
        fused: With fused attention (causal, no temperature) or without it (neither causal nor
            scaled by the head size).
        fixes: Names of the defects that are fixed, of `FIXABLE_DEFECTS`; those of the global path
            change nothing here.

    Raises:
        ValueError: An option breaks its rule.
    """

    fused: bool = True
    fixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.fixes:
            check_fix(name)

    @property
    def uses_temperature(self) -> bool:
        """Whether scores are divided by the temperature."""
        return not self.fused or "temperature" in self.fixes

    @property
    def slice_causal(self) -> bool:
        """Whether a query sees no keys of its slice beyond its own place."""
        return self.fused and "local_causal" not in self.fixes

    @property
    def truncate_keys(self) -> bool:
        """Whether a window sees but the first keys of its slice, as many as it has queries."""
        return "cut" not in self.fixes

    def spans(self, scale: Tensor) -> SpanGeometry:
        """Windows and spans at the sequences' span scales, shape (batch,)."""
        # The original bounds only what it cuts, where the bound is never reached.
        bound = None if self.truncate_keys else self.max_dist
        spans = SpanGeometry.from_scale(
            scale, win_size=self.win_size, max_span=self.max_span, max_dist=bound
        )
        off = (scale.detach().double() * self.max_span).long() == 0
        return SpanGeometry(spans.window, torch.where(off, 0, spans.span))

    def visible_range(self, spans: SpanGeometry, tokens: int) -> tuple[Tensor, Tensor]:
        """First key and end of what each query sees; see `SpanConfig.visible_range`."""
        first, end = spans.intervals(tokens)
        start = spans.window_starts(tokens)
        position = torch.arange(tokens, device=start.device)
        if self.truncate_keys:
            # A query's place is counted from the start of the slice, where its window is not.
            queries = torch.minimum(spans.window[:, None], tokens - start)
            end = first + (position - start + 1 if self.slice_causal else queries)
        elif self.slice_causal:
            end = torch.minimum(end, position + 1)
        return first, torch.where(spans.span[:, None] > 0, end, 0)


class _WindowResult(NamedTuple):
    """A window after its last pass.

    Attributes:
        output: Shape (batch, queries, dims).
        query: Queries of that pass, shaped alike, detached.
        steps: Passes it took.
    """

    output: Tensor
    query: Tensor
    steps: int


def truncated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    head: int,
    max_span: int,
    max_dist: int,
    temperature: float | None = None,
    causal: bool = False,
) -> Tensor:
    """The original's span-limited attention: everything is cut to its first tokens.

    Args:
        q: Queries, shape (batch, queries, dims).
        k: Keys, shape (batch, keys, dims).
        v: Values, shape (batch, keys, dims).
        scale: Span scale in [0, 1].
        head: Number of heads.
        max_span: Span at scale 1, in tokens.
        max_dist: Upper bound on the span, in tokens.
        temperature: If given, scores are ``q·k / temperature`` (the original without fused
            attention); else ``q·k / sqrt(head size)`` (with it, which ignores the temperature).
        causal: Query ``i`` of the slice sees its keys ``0..i``.

    Returns:
        Shape (batch, n, dims), ``n = min(int(max_span * scale), queries, keys, max_dist)``.
    """
    length = min(int(max_span * scale), q.shape[1], k.shape[1], max_dist)
    query, key, value = (split_heads(each[:, :length], head) for each in (q, k, v))
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=causal, scale=None if temperature is None else 1 / temperature
    )
    return merge_heads(out)


class OriginalSlidingWindowAttention(SlidingWindowAttention):
    """The original's local path: one span for the whole batch.

    Args:
        head: Number of heads.
        options: Spans and temperature.
        fused: With fused attention (causal, no temperature) or without it (neither causal nor
            scaled by the head size).
        fixes: Names of the defects that are fixed.

    Raises:
        ValueError: A name is unknown.
    """

    options: OriginalSpanConfig

    def __init__(
        self, head: int, options: SpanConfig, fused: bool = True, fixes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(head, OriginalSpanConfig(**vars(options), fused=fused, fixes=fixes))
        # A parameter of the original that nothing reads; its state dicts hold it.
        self.span_scale = nn.Parameter(torch.zeros(()))

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        scale: Tensor,
        xa: Tensor | None = None,  # noqa: ARG002
        *,
        mask: Tensor | None = None,  # noqa: ARG002
        lengths: Tensor | None = None,
        key_lengths: Tensor | None = None,
        return_stats: bool = False,
    ) -> LocalAttentionOutput:
        """Attend within the intervals that the mean span scale gives.

        Args:
            x: Normalized input, shape (batch, tokens, dims).
            scale: Span scales, shape (batch,); their mean is used.
            xa: Ignored, as the original did.
            mask: Ignored, as the original did.
            lengths: The original knows no padding.
            key_lengths: The same.
            return_stats: Whether to give statistics of the attention weights. Coverage is the share
                of full attention's weight, to both sides, on the keys that the original lets a
                query see.

        Returns:
            The output with its span, equal for all of the batch, and its price.

        Raises:
            ValueError: Something is asked for that the original has not.
        """
        if lengths is not None or key_lengths is not None:
            raise ValueError("the original layer knows no lengths: hand in sequences without them")
        scale = scale.mean().expand_as(scale)
        spans = self.options.spans(scale)
        tokens, window, span = x.shape[1], int(spans.window[0]), int(spans.span[0])
        temperature = self._shared_temperature(float(scale[0]))
        out, last = torch.zeros_like(x), torch.zeros_like(x)
        passes = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        for start in range(0, tokens, window) if span else ():
            some = slice(start, start + window)
            first = max(0, start - span + window)
            keys = x[:, first : start + span]
            focused = self._focus(x[:, some], keys, start - first, float(scale[0]), temperature)
            out[:, some], last[:, some], passes[:, some] = focused
        first, end = self.options.visible_range(spans, tokens)
        visited, num_refinement_steps = ((end - first) * passes).sum(-1), passes.amax(-1)
        stats = None
        if return_stats:
            weight_stats = self._statistics(x, last, passes, temperature, spans)
            stats = AttentionStats(
                spans.window, spans.span, visited, num_refinement_steps, *weight_stats
            )
        return LocalAttentionOutput(out, spans, visited, num_refinement_steps, stats)

    def _shared_temperature(self, scale: float) -> float | None:
        """What scores are divided by, if by anything."""
        if not self.options.uses_temperature:
            return None
        return float(self.temperature(torch.tensor(scale).double()))

    def _focus(
        self, q: Tensor, keys: Tensor, place: int, scale: float, temperature: float | None
    ) -> _WindowResult:
        """All passes of a window whose first query has that place among its keys."""
        before = torch.zeros_like(q)
        steps = 0
        while True:
            steps += 1
            out = self._once(q, keys, place, scale, temperature)
            change = (out - before).abs().mean()
            if steps == MAX_REFINEMENT_STEPS or change < 1e-4 + 0.1 * change:
                return _WindowResult(out, q.detach(), steps)
            before, q = out, q + out

    def _once(
        self, q: Tensor, keys: Tensor, place: int, scale: float, temperature: float | None
    ) -> Tensor:
        options = self.options
        if options.fused and temperature is not None:
            q, temperature = q / temperature, None
        if options.truncate_keys:
            return truncated_attention(
                q,
                keys,
                keys,
                scale=scale,
                head=self.head,
                max_span=options.max_span,
                max_dist=options.max_dist,
                temperature=temperature,
                causal=options.slice_causal,
            )
        mask = None
        if options.slice_causal:
            whole = torch.ones(q.shape[1], keys.shape[1], dtype=torch.bool, device=q.device)
            mask = whole.tril(place)
        query, key = split_heads(q, self.head), split_heads(keys, self.head)
        out = nn.functional.scaled_dot_product_attention(
            query,
            key,
            key,
            attn_mask=mask,
            scale=None if temperature is None else 1 / temperature,
        )
        return merge_heads(out)

    @torch.no_grad()
    def _statistics(
        self,
        x: Tensor,
        last: Tensor,
        passes: Tensor,
        temperature: float | None,
        spans: SpanGeometry,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Entropy, effective span and coverage of the last passes."""
        key, query = split_heads(x, self.head), split_heads(last, self.head)
        query = query / (temperature or 1.0)
        if not self.options.fused:
            # Its scores are not scaled by the head size, by which statistics scale them.
            query = query * query.shape[-1] ** 0.5
        first, end = self.options.visible_range(spans, x.shape[1])
        position = torch.arange(x.shape[1], device=x.device)
        visible = (position >= first[..., None]) & (position < end[..., None])
        bias = to_additive_mask(visible, x.dtype)[:, None]
        output, lse = softmax_attention(query, key, key, bias)
        kernel_output = KernelOutput(output, passes, lse, query)
        return compute_attention_stats(KernelInputs(query, key, key, spans), kernel_output)
