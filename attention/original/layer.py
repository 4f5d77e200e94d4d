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
prediction (of the longest span with ``action_scale="absolute"``, here too), and the span has no
gradient.

One defect at a time can be fixed, by its name, the others kept:

| ``fixes`` | # | what is fixed |
|---|---|---|
| ``temperature`` | 1 | scores of the local path are divided by the temperature |
| ``local_causal`` | 2 | a query sees all keys that its window sees: the start of the interval |
| ``global_causal`` | 3 | the global path looks to both sides; what it ignored it goes on ignoring |
| ``double_scale`` | 4 | global scores are scaled once, by ``head_size ** -1/2`` |
| ``cut`` | 5 | a window sees its whole interval, of at most ``max_dist`` keys |

Numbers 2 and 5 hang together. A query of the original sees as many keys, from the start of the
interval on, as its place in the *window* says; those are never more than the cut leaves, so that
to undo the cut alone would change nothing. Fixed, ``cut`` therefore has a query see the keys up to
its own place in the *interval*, that is up to itself: still causal, as number 2 is kept. With 1 to
5 all fixed, a sequence by itself is attended to as by the default layer.

Number 6 has no name here: in an environment every sequence is a batch of its own, which leaves
nothing of it to be fixed. Nor has number 10, which is about refiners within the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spangym.attention.controllers.protocol import Controller
from spangym.attention.features import quality, token_moments, tuple_hash_ids
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention, KeyValueCache
from spangym.attention.layers.integrated import ActionScale, IntegratedAttention
from spangym.attention.layers.modules import ProjectionModule
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.layers.two_path import SpanAction
from spangym.attention.original.local_path import OriginalSlidingWindowAttention, check_fix
from spangym.attention.outputs import LayerCache, LayerOutput
from spangym.attention.span_config import SpanConfig
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.validation import Inputs


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
        scaled_twice: Whether queries and keys are scaled before their scores are.
    """

    def __init__(
        self, dims: int, head: int, causal: bool = True, scaled_twice: bool = True
    ) -> None:
        super().__init__(dims, head)
        self._causal = causal
        if scaled_twice:
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
        recompute_kv: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend over the sequence itself, whatever else is handed in.

        Args:
            x: Shape (batch, tokens, dims).
            xa: Ignored, as the original did.
            mask: Ignored, as the original did.
            key_lengths: Ignored.
            cache: What the last pass gave.
            recompute_kv: What is computed anew; the predictors decide if None.

        Returns:
            Output of shape (batch, tokens, dims), and the cache for the next pass.
        """
        return super().forward(x, cache=cache, recompute_kv=recompute_kv)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        key_lengths: Tensor | None,  # noqa: ARG002
        causal: bool,  # noqa: ARG002
    ) -> Tensor:
        attend = nn.functional.scaled_dot_product_attention
        return self.combiner(attend(query, key, value, is_causal=self._causal))


@dataclass(frozen=True)
class OriginalLayerOutput(LayerOutput):
    """What one pass did, the whole batch being judged as one sequence."""

    @property
    def reward(self) -> Tensor:
        """Quality of the local output of the whole batch, shape (1,)."""
        return quality(_as_one_sequence(self.local_output)).quality

    @property
    def state(self) -> list[int]:
        """State id of the whole batch's normalized input."""
        return tuple_hash_ids(token_moments(_as_one_sequence(self.local_input)))

    @property
    def next_state(self) -> list[int]:
        """State id of the whole batch's local output."""
        return tuple_hash_ids(token_moments(_as_one_sequence(self.local_output)))


class OriginalIntegratedAttention(IntegratedAttention):
    """`IntegratedAttention` as it was; made by `IntegratedAttention.original`."""

    single_span_per_batch = True

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        max_dist: int,
        win_size: int,
        max_span: int,
        temp_scale: float,
        *,
        temperature_law: TemperatureLaw,
        action_scale: ActionScale,
        fixes: str,
        refiner: Controller | None,
        generator: torch.Generator | None,
    ) -> None:
        if fixes:
            check_fix(fixes)
        # Before the rest, which makes the paths.
        self.fixes = fixes
        super().__init__(
            ctx,
            dims,
            head,
            max_dist,
            win_size,
            max_span,
            temp_scale,
            temperature_law=temperature_law,
            action_scale=action_scale,
            refiner=refiner,
            generator=generator,
        )

    def _local_path(
        self,
        head: int,
        options: SpanConfig,
        dims: int | None,
        num_refinement_steps: int,
        num_induction_heads: int,
    ) -> SlidingWindowAttention:
        del dims, num_refinement_steps, num_induction_heads  # It had no choice of them.
        fixes = (self.fixes,) if self.fixes else ()
        return OriginalSlidingWindowAttention(head, options, fixes=fixes)

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        del causal  # It had no choice of it.
        return OriginalAdaptiveUpdateAttention(
            dims,
            head,
            causal=self.fixes != "global_causal",
            scaled_twice=self.fixes != "double_scale",
        )

    def obs_features(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        cache: LayerCache | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Mean and variance of the normalized input over the whole batch, shape (1, 2 * dims)."""
        return token_moments(_as_one_sequence(self.ln_a(x)), lengths)

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
        span_action: SpanAction | None = None,
    ) -> OriginalLayerOutput:
        done = super()._run(inputs, cache, return_stats, span_action)
        return OriginalLayerOutput(**vars(done))

    def _scale(self, *arguments: Any, **named: Any) -> Tensor:
        scale = super()._scale(*arguments, **named)
        return scale.mean().expand_as(scale)

    @property
    def _is_greedy(self) -> bool:
        return False

    @property
    def _learns(self) -> bool:
        return True


def _as_one_sequence(x: Tensor) -> Tensor:
    """A batch (batch, tokens, dims) as one long sequence (1, batch * tokens, dims)."""
    return x.flatten(0, 1)[None]
