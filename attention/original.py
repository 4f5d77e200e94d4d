"""The original layer, defects and all, so that their cost can be measured.

A frozen preset: it reproduces what the original code computed, on the CPU, to rounding. Where it
differs from the default layer, numbered as by ``spangym defects``:

1. its fused attention ignores the temperature;
2. its local path is causal, by position inside the slice that a window hands over;
3. its global path is causal too, and both paths ignore masks and cross-attention input;
4. global queries and keys are scaled by ``head_size ** -1/4`` each, and then once more by
   ``head_size ** -1/2``;
5. queries and keys of a window are cut to the first ``min(int(max_span * m), queries, keys,
   max_dist)``: a window attends to the *start* of its interval, not to itself;
6. a whole batch is one: iterative focus stops for all of it at once, it shares one span, the mean
   over its sequences, and one state and reward; a span scale of less than one key turns the local
   path off;
10. a refiner explores and learns in eval mode too.

Numbers 7 to 9 are the default layer's as well: ties go to action 0, actions are shares of a
prediction, and the span has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adaptive_span import LocalPass
from .adaptive_update import AdaptiveUpdateAttention, KeyValueCache
from .heads import ProjectionModule, join_heads, split_heads
from .inputs import Inputs
from .integrated import IntegratedAttention
from .metrics import features, quality, state_ids
from .multi_head import MultiHeadAttention
from .options import SpanOptions
from .outcome import LayerCache, Outcome
from .sliding_window import FOCUS_STEPS, SlidingWindowAttention
from .spans import Spans
from .two_path import Decision


def cut_attention(
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
        max_dist: Upper bound on the span.
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
    return join_heads(out)


class OriginalSlidingWindowAttention(SlidingWindowAttention):
    """The original's local path: one span for the whole batch.

    Args:
        head: Number of heads.
        options: Spans and temperature.
        fused: With fused attention (causal, no temperature) or without it (neither causal nor
            scaled by the head size).
    """

    def __init__(self, head: int, options: SpanOptions, fused: bool = True) -> None:
        super().__init__(head, options)
        self.fused = fused
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
    ) -> LocalPass:
        """Attend within the intervals that the mean span scale gives.

        Args:
            x: Normalised input on the CPU, shape (batch, tokens, dims).
            scale: Span scales, shape (batch,); their mean is used.
            xa: Ignored, as the original did.
            mask: Ignored, as the original did.
            lengths: The original knows no padding.
            key_lengths: The same.
            return_stats: The original has none.

        Returns:
            The output with its span, equal for all of the batch, and its price.

        Raises:
            ValueError: Something is asked for that the original has not.
        """
        if lengths is not None or key_lengths is not None or return_stats:
            raise ValueError("the original layer knows neither lengths nor statistics")
        options = self.options
        scale = scale.mean().expand_as(scale)
        spans = Spans.from_scale(scale, win_size=options.win_size, max_span=options.max_span)
        tokens, shared = x.shape[1], float(scale[0])
        out = torch.zeros_like(x)
        visited = slowest = 0
        if int(options.max_span * shared) > 0:
            window, span = int(spans.window[0]), int(spans.span[0])
            for start in range(0, tokens, window):
                keys = x[:, max(0, start - span + window) : start + span]
                queries = x[:, start : start + window]
                out[:, start : start + window], steps = self._focus(queries, keys, shared)
                length = min(span, queries.shape[1], options.max_dist)
                pairs = length * (length + 1) // 2 if self.fused else length**2
                visited, slowest = visited + steps * pairs, max(slowest, steps)
        else:
            spans = Spans(spans.window, torch.zeros_like(spans.span))
        return LocalPass(
            out, spans, torch.full_like(spans.span, visited), torch.full_like(spans.span, slowest)
        )

    def _focus(self, q: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, int]:
        before = torch.zeros_like(q)
        temperature = None if self.fused else float(self.temperature(torch.tensor(scale).double()))
        steps = 0
        while True:
            steps += 1
            out = cut_attention(
                q,
                keys,
                keys,
                scale=scale,
                head=self.head,
                max_span=self.options.max_span,
                max_dist=self.options.max_dist,
                temperature=temperature,
                causal=self.fused,
            )
            change = (out - before).abs().mean()
            if steps == FOCUS_STEPS or change < 1e-4 + 0.1 * change:
                return out, steps
            before, q = out, q + out


class _ScaledProjection(ProjectionModule):
    """The original scales queries and keys a first time as it projects them."""

    def forward(self, x: Tensor) -> Tensor:
        heads = super().forward(x)
        return heads * heads.shape[-1] ** -0.25


class OriginalAdaptiveUpdateAttention(AdaptiveUpdateAttention):
    """The original's global path: scaled twice, deaf to masks and, within the layer, causal.

    Args:
        dims: Width of input and output.
        head: Number of heads; divides ``dims``.
        causal: Whether a token sees only those before it.
    """

    def __init__(self, dims: int, head: int, causal: bool = True) -> None:
        super().__init__(dims, head)
        self._sees_the_past_only = causal
        self.query_module = _ScaledProjection(dims, head)
        self.key_module = _ScaledProjection(dims, head)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        xa: Tensor | None = None,  # noqa: ARG002
        *,
        mask: Tensor | None = None,  # noqa: ARG002
        key_lengths: Tensor | None = None,  # noqa: ARG002
        cache: KeyValueCache | None = None,
        refresh: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend over the sequence itself, whatever else is handed in.

        Args:
            x: Shape (batch, tokens, dims).
            xa: Ignored, as the original did.
            mask: Ignored, as the original did.
            key_lengths: Ignored.
            cache: What the last pass gave.
            refresh: What is computed anew; the predictors decide if None.

        Returns:
            Output of shape (batch, tokens, dims), and the cache for the next pass.
        """
        return super().forward(x, cache=cache, refresh=refresh)

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        key_lengths: Tensor | None,  # noqa: ARG002
        causal: bool,  # noqa: ARG002
    ) -> Tensor:
        attend = nn.functional.scaled_dot_product_attention
        return self.combiner(attend(query, key, value, is_causal=self._sees_the_past_only))


@dataclass(frozen=True)
class OriginalOutcome(Outcome):
    """What one pass did, the whole batch being judged as one lane."""

    @property
    def reward(self) -> Tensor:
        """Quality of the local output of the whole batch, shape (1,)."""
        return quality(_one_lane(self.local_output)).quality

    @property
    def state(self) -> list[int]:
        """State id of the whole batch's normalised input."""
        return state_ids(features(_one_lane(self.local_input)))

    @property
    def next_state(self) -> list[int]:
        """State id of the whole batch's local output."""
        return state_ids(features(_one_lane(self.local_output)))


class OriginalIntegratedAttention(IntegratedAttention):
    """`IntegratedAttention` as it was; made by `IntegratedAttention.original`."""

    def _local_path(
        self,
        head: int,
        options: SpanOptions,
        dims: int | None,
        focus_steps: int,
        shifted_heads: int,
    ) -> SlidingWindowAttention:
        del dims, focus_steps, shifted_heads  # It had no choice of them.
        return OriginalSlidingWindowAttention(head, options)

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        del causal  # It always was.
        return OriginalAdaptiveUpdateAttention(dims, head)

    def features(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        cache: LayerCache | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Mean and variance of the normalised input over the whole batch, shape (1, 2 * dims)."""
        return features(_one_lane(self.ln_a(x)), lengths)

    def attention_weights(self, *_: object, **__: object) -> Tensor:
        """The original cuts queries and keys as it goes: there is no matrix of its weights.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the original layer has no matrix of attention weights")

    def _run(
        self,
        inputs: Inputs,
        cache: LayerCache | None,
        return_stats: bool,
        decision: Decision | None = None,
    ) -> OriginalOutcome:
        done = super()._run(inputs, cache, return_stats, decision)
        return OriginalOutcome(**vars(done))

    def _scale(self, *arguments: Any, **named: Any) -> Tensor:
        scale = super()._scale(*arguments, **named)
        return scale.mean().expand_as(scale)

    @property
    def _is_greedy(self) -> bool:
        return False

    @property
    def _learns(self) -> bool:
        return True


def _one_lane(x: Tensor) -> Tensor:
    """A batch (batch, tokens, dims) as one long lane (1, batch * tokens, dims)."""
    return x.flatten(0, 1)[None]
