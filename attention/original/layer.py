"""The original layer with its defects, so that the effect of each can be measured.

A frozen preset: on the CPU it reproduces the original code's results up to rounding. It differs
from the default layer as follows, numbered as by ``spangym defects``:

1. fused attention ignores the temperature;
2. the local path is causal, by position inside the slice that a window attends to;
3. the global path is causal too, and both paths ignore masks and cross-attention input;
4. global queries and keys are scaled by ``head_size ** -1/4`` each, and scores once more by
   ``head_size ** -1/2``;
5. queries and keys of a window are cut to the first ``min(int(max_span * m), queries, keys,
   max_dist)``: a window attends to the *start* of its interval, not to itself;
6. a batch is one sequence: all of it stops refining at once and shares one span (the mean of its
   predictions), state and reward; a span scale of less than one key turns the local path off;
10. a refiner explores and learns in eval mode too;
11. the key-value cache is written and never read: every pass recomputes.

The default layer shares numbers 7 to 9 and 11: ties go to action 0, actions are fractions of a
prediction (of the longest span with ``action_scale="absolute"``), the span has no gradient, and
every pass recomputes.

Defects can be fixed by their names:

| ``fixes`` | # | effect |
|---|---|---|
| ``temperature`` | 1 | local scores are divided by the temperature |
| ``local_causal`` | 2 | a query attends to all keys of its window: the start of the interval |
| ``global_causal`` | 3 | the global path is bidirectional; it still ignores masks and ``xa`` |
| ``double_scale`` | 4 | global scores are scaled once, by ``head_size ** -1/2`` |
| ``cut`` | 5 | a window attends to its whole interval, of at most ``max_dist`` keys |

Numbers 2 and 5 interact. A query of the original attends to as many keys, from the start of the
interval, as its position in the *window*; the cut never leaves fewer, so without it nothing would
change. With ``cut`` fixed, a query therefore attends to the keys up to its position in the
*interval*, which is its own: still causal, since number 2 is kept. With 1 to 5 all fixed, a single
sequence gets the default layer's result.

Number 6 has no name, since environments run each sequence as its own batch, and number 10 has none,
since it concerns refiners in layers. What a cache could save (11) is an option:
``SpanConfig.use_refresh_predictors``, or an environment whose agent decides
(``control_kv_cache=True``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from spangym.attention.features import quality, token_moments
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention, KeyValueCache
from spangym.attention.layers.local_global import ControllerInput, LocalGlobalAttention, Paths
from spangym.attention.layers.modules import (
    CastingLinear,
    ProjectionModule,
    SelfInitializing,
    init_projection,
    merge_heads,
    split_heads,
)
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.original.local_path import OriginalSlidingWindowAttention
from spangym.attention.original.truncation import OriginalSpanConfig
from spangym.attention.outputs import LayerCache, LayerOutput
from spangym.attention.span_config import SpanConfig
from spangym.utils.readable_repr import readable_repr


class _ScaledProjection(ProjectionModule):
    """Projection of queries or keys with the original's additional scaling."""

    def forward(self, x: Tensor) -> Tensor:
        heads = super().forward(x)
        return heads * heads.shape[-1] ** -0.25


class OriginalAdaptiveUpdateAttention(AdaptiveUpdateAttention):
    """The original's global path, which ignores masks and cross-attention input.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        causal: Whether a token attends only to itself and earlier tokens.
        scaled_twice: Whether queries and keys are scaled in addition to the scores.
        use_refresh_predictors: Whether the refresh predictors decide, given a cache; the original
            layer gives none.
    """

    def __init__(
        self,
        dims: int,
        head: int,
        causal: bool = True,
        scaled_twice: bool = True,
        use_refresh_predictors: bool = False,
    ) -> None:
        # The refresh predictors read the current pass, causal or not.
        super().__init__(dims, head, False, use_refresh_predictors)
        self._causal = causal
        if scaled_twice:
            self.query_module = _ScaledProjection(dims, head)
            self.key_module = _ScaledProjection(dims, head)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        *_: Tensor | None,
        cache: KeyValueCache | None = None,
        recompute_kv: Tensor | None = None,
        **__: Tensor | None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend to ``x`` itself, whatever else is given."""
        return super().forward(x, cache=cache, recompute_kv=recompute_kv)

    def _attend(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, *_: object
    ) -> Tensor:
        attend = nn.functional.scaled_dot_product_attention
        return self.combiner(attend(query, key, value, is_causal=self._causal))


class OriginalMultiHeadAttention(SelfInitializing):
    """The global path of the original's `HybridAttention` and `FocusAttention`.

    Queries and keys are scaled by ``head_size ** -1/4`` each; masks and cross-attention input are
    ignored.

    Args:
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
    """

    def __init__(self, dims: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.query = CastingLinear(dims, dims)
        self.key = CastingLinear(dims, dims)
        self.value = CastingLinear(dims, dims)
        self.out = CastingLinear(dims, dims)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights from N(0, 0.02); biases are zero."""
        for linear in (self.query, self.key, self.value, self.out):
            init_projection(linear, generator)

    def forward(self, x: Tensor, *_: Tensor | None, **__: Tensor | None) -> Tensor:
        """Attend to ``x`` itself, shape (batch, tokens, dims), whatever else is given."""
        query, key, value = (
            split_heads(linear(x), self.head) for linear in (self.query, self.key, self.value)
        )
        factor = query.shape[-1] ** -0.25
        attend = nn.functional.scaled_dot_product_attention
        return self.out(merge_heads(attend(query * factor, key * factor, value, scale=1.0)))


@dataclass(frozen=True)
class OriginalLayerOutput(LayerOutput):
    """Results of one pass, with one state and reward for the whole batch."""

    __repr__ = readable_repr

    @property
    def reward(self) -> Tensor:
        """Quality of the local output of the whole batch, shape (1,)."""
        return quality(_as_one_sequence(self.local_output)).quality

    @property
    def next_state(self) -> list[int]:
        """State id of the local output of the whole batch."""
        return self.state_ids(self.moments(self.local_output), self.num_states)

    @staticmethod
    def moments(x: Tensor) -> Tensor:
        """Means and variances over all tokens of the batch, shape (1, 2 * dims)."""
        return token_moments(_as_one_sequence(x))


class OriginalDefects(LocalGlobalAttention):
    """Mixin that gives a layer the original's paths and its shared span, state and reward."""

    default_config: SpanConfig = OriginalSpanConfig()
    single_span_per_batch = True
    _learns_in_eval = True
    _output_class = OriginalLayerOutput

    def _make_paths(self, config: SpanConfig) -> Paths:
        fixes = cast(OriginalSpanConfig, config).fixes
        attn_global = OriginalAdaptiveUpdateAttention(
            self.dims,
            self.head,
            causal="global_causal" not in fixes,
            scaled_twice="double_scale" not in fixes,
            use_refresh_predictors=config.use_refresh_predictors,
        )
        return OriginalSlidingWindowAttention(self.dims, self.head, config), attn_global

    def _observe(
        self, x: Tensor, lengths: Tensor | None, cache: LayerCache | None
    ) -> ControllerInput:
        observed = super()._observe(x, lengths, cache)
        moments = self._output_class.moments(observed.local_input.detach())
        return dataclasses.replace(observed, obs_features=moments)

    def _span_scale(self, predicted: Tensor, fraction: Tensor | None) -> Tensor:
        scale = super()._span_scale(predicted, fraction)
        return scale.mean().expand_as(scale)

    def attention_weights(self, *_: object, **__: object) -> Tensor:
        """Raise a ``NotImplementedError``: the original cuts its scores window by window."""
        raise NotImplementedError("the original layer has no matrix of attention weights")


class OriginalPlainDefects(OriginalDefects):
    """`OriginalDefects` with a plain multi-head global path, without a cache."""

    def _make_paths(self, config: SpanConfig) -> Paths:
        attn_local = OriginalSlidingWindowAttention(self.dims, self.head, config)
        return attn_local, cast(
            MultiHeadAttention, OriginalMultiHeadAttention(self.dims, self.head)
        )


def _as_one_sequence(x: Tensor) -> Tensor:
    """Join a batch (batch, tokens, dims) into one sequence (1, batch * tokens, dims)."""
    return x.flatten(0, 1)[None]
