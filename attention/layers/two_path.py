"""A local path of sliding windows beside a global path: what all such layers share."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats
from spangym.attention.features import sequence_mask, token_mean, token_moments
from spangym.attention.layers.cached_attention import KeyValueCache
from spangym.attention.layers.modules import Predictor, ProjectionModule
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.outputs import LayerCache, LayerOutput, check_cache
from spangym.attention.span_config import SpanConfig, check_sizes
from spangym.attention.validation import Inputs


class SpanAction(NamedTuple):
    """What is decided for a pass from outside; what is None the layer decides.

    Attributes:
        fraction: Share of the span of each sequence, shape (batch,), in [0, 1].
        is_absolute: Whether that is of the longest span rather than of the predicted one.
        recompute_kv: Whether keys, and values, are computed anew, boolean (batch, 2).
    """

    fraction: Tensor | None = None
    is_absolute: bool = False
    recompute_kv: Tensor | None = None


class ControllerInput(NamedTuple):
    """What a pass shows to those who decide on it, detached.

    Attributes:
        features: Means and variances of the local path's input, shape (batch, 2 * dims).
        local_input: That input, shape (batch, tokens, dims).
        lengths: Tokens of each sequence that are no padding, shape (batch,); all if None.
    """

    features: Tensor
    local_input: Tensor
    lengths: Tensor | None


class LocalGlobalAttention(nn.Module):
    """Attention with a local path whose span is predicted for each input.

    1. ``local = LN_a(x)``, ``globe = LN_b(x)``;
    2. the global path attends over all of ``globe``;
    3. the span predictor reads the span scale ``m = p`` in (0, 1) off the global output;
    4. the local path attends over ``local`` in windows, as far as ``m`` says;
    5. ``y = projection([local output, global output])``.

    Every sequence of a batch has a span of its own and never depends on its neighbors.

    **Cross-attention.** With ``xa`` both paths take their keys and values from it, normalized
    alike. The local path pairs positions: window ``i`` of ``x`` sees its interval of ``xa``.

    **Causality.** With ``causal`` a token sees none after it; of ``xa``, another sequence, it sees
    what it would see otherwise. A span is one number for a whole sequence, and read off the mean
    over its tokens it would tell early tokens of late ones. With ``causal`` it is read off the pass
    before, which the cache holds, and where there is none off the first token, which every token
    may see. The same is true of all that is decided for a whole sequence.

    Args:
        ctx: Longest sequence, in tokens.
        dims: Width of input and output; at least 4.
        head: Number of heads; divides ``dims``.
        attn_local: The local path.
        attn_global: The global path.
        generator: Source of the initial weights; torch's default generator if None.

    Attributes:
        single_span_per_batch: Whether a whole batch is one sequence, with one span, state and reward: the
            original layer's defect.

    Raises:
        ValueError: A size breaks its rule.
    """

    single_span_per_batch: bool = False

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        attn_local: SlidingWindowAttention,
        attn_global: MultiHeadAttention,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(ctx, dims, head)
        self.ctx = ctx
        self.dims = dims
        self.head = head
        # Modules draw weights when they are made; those are drawn anew below.
        with torch.random.fork_rng(devices=[]):
            self.span_pred = Predictor(dims)
            self.attn_local = attn_local
            self.attn_global = attn_global
            self.projection = nn.Linear(2 * dims, dims)
            self.ln_a = nn.LayerNorm(dims)
            self.ln_b = nn.LayerNorm(dims)
        self.reset_parameters(generator)

    @property
    def options(self) -> SpanConfig:
        """Options of the local path."""
        return self.attn_local.options

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew: N(0, 0.02) for projections of heads, else torch's default.

        Args:
            generator: Source of the weights; torch's default generator if None.
        """
        # A refiner may be a module too, and what it has learned is its own.
        own = [child for name, child in self.named_children() if name != "refiner"]
        modules = [module for child in own for module in child.modules()]
        projections = {each.proj for each in modules if isinstance(each, ProjectionModule)}
        for module in modules:
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear) and module in projections:
                nn.init.normal_(module.weight, std=0.02, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    def obs_features(
        self, x: Tensor, *, lengths: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """What a decision for the coming pass is made from: mean and variance of the local input.

        Args:
            x: Shape (batch, tokens, dims).
            lengths: Tokens of each sequence that are no padding, shape (batch,), integers.
            cache: Of the last pass on the stream; a causal layer reads the features off it, and
                without it off the first token.

        Returns:
            Shape (batch, 2 * dims): means, then population variances.
        """
        if cache is not None:
            check_cache(cache, len(x), self.dims)
        if not self.options.causal:
            return token_moments(self.ln_a(x), lengths)
        return token_moments(self.ln_a(x[:, :1])) if cache is None else cache.obs_features

    @overload
    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = ...,
        mask: Tensor | None = ...,
        *,
        lengths: Tensor | None = ...,
        xa_lengths: Tensor | None = ...,
        return_stats: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = ...,
        mask: Tensor | None = ...,
        *,
        lengths: Tensor | None = ...,
        xa_lengths: Tensor | None = ...,
        return_stats: Literal[True],
    ) -> tuple[Tensor, AttentionStats]: ...

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, AttentionStats]:
        """Run the layer.

        Args:
            x: Shape (batch, tokens, dims), ``tokens <= ctx``.
            xa: Where keys and values come from, shape (batch, keys, dims); ``x`` if None.
            mask: Boolean (True: may be seen) or added to the scores, for both paths; broadcastable
                to (batch, heads, tokens, keys).
            lengths: Tokens of each sequence that are no padding, shape (batch,), integers; the output
                of padding is 0.
            xa_lengths: The same of ``xa``.
            return_stats: Whether to give statistics of the local path's attention weights too.

        Returns:
            Shape (batch, tokens, dims); with ``return_stats`` a pair of it and the statistics.

        Raises:
            ValueError: A shape or type is wrong; the message says what would be right.
        """
        outcome = self.step(
            x, xa, mask, lengths=lengths, xa_lengths=xa_lengths, return_stats=return_stats
        )
        if outcome.stats is None:
            return outcome.output
        return outcome.output, outcome.stats

    def step(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the layer as `forward` does, and say what it did: the way to read a stream.

        Where a layer has a refiner, that decides, and learns in train mode; else the predictor.

        Args:
            x: Shape (batch, tokens, dims), ``tokens <= ctx``.
            xa: As in `forward`.
            mask: As in `forward`.
            lengths: As in `forward`.
            xa_lengths: As in `forward`.
            cache: The last outcome's; None where a stream begins.
            return_stats: As in `forward`.

        Returns:
            The output, the cache for the next pass, spans and price.

        Raises:
            ValueError: A shape or type is wrong, the cache is of another shape, or the refiner
                chose what is no action.
            RuntimeError: Gradient checkpointing runs the pass again, which a learning refiner
                must not be asked twice for.
        """
        return self._step(
            self._validate_inputs(x, xa, mask, lengths, xa_lengths), cache, return_stats
        )

    @torch.no_grad()
    def attention_weights(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        scale: Tensor | None = None,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        path: Literal["local", "global"] = "local",
    ) -> Tensor:
        """Write out the attention weights, for plots: memory grows with tokens times keys.

        Those of the local path are of each query's last pass. A refiner is not asked: hand in the
        ``scale`` of the outcome that is to be plotted. No gradient flows.

        Args:
            x: Shape (batch, tokens, dims), ``tokens <= ctx``.
            xa: As in `forward`.
            mask: As in `forward`.
            scale: Span scale of each sequence, shape (batch,), say an outcome's; the predicted one if
                None.
            lengths: As in `forward`.
            xa_lengths: As in `forward`.
            path: ``local`` or ``global``.

        Returns:
            Shape (batch, heads, tokens, keys); rows sum to 1, or to 0 where nothing is seen.

        Raises:
            ValueError: A shape or type is wrong, or the path is another one.
        """
        inputs = self._validate_inputs(x, xa, mask, lengths, xa_lengths)
        if path not in ("local", "global"):
            raise ValueError(f"path must be 'local' or 'global', got {path!r}")
        if path == "global":
            source = None if xa is None else self.ln_b(xa)
            return self.attn_global.weights(
                self.ln_b(x), source, mask=mask, key_lengths=inputs.key_lengths
            )
        if scale is None:
            global_out, _ = self._global(inputs, None)
            scale = self._scale(global_out, lengths, None, None, is_absolute=False)
        return self.attn_local.weights(
            self.ln_a(x),
            scale,
            None if xa is None else self.ln_a(xa),
            mask=mask,
            lengths=lengths,
            key_lengths=inputs.key_lengths,
        )

    def _validate_inputs(
        self,
        x: Tensor,
        xa: Tensor | None,
        mask: Tensor | None,
        lengths: Tensor | None,
        xa_lengths: Tensor | None,
    ) -> Inputs:
        inputs = Inputs(x, xa, mask, lengths, xa_lengths)
        inputs.check(self.ctx, self.dims, self.head)
        return inputs.clamped()

    def _step(self, inputs: Inputs, cache: LayerCache | None, return_stats: bool) -> LayerOutput:
        """One pass of the layer's own deciding."""
        return self._run(inputs, cache, return_stats)

    def _run(
        self,
        inputs: Inputs,
        cache: LayerCache | None,
        return_stats: bool,
        span_action: SpanAction | None = None,
    ) -> LayerOutput:
        """Run the layer, under a decision or of its own deciding."""
        lengths = inputs.lengths
        if cache is not None:
            check_cache(cache, len(inputs.x), self.dims)
        local_input = self.ln_a(inputs.x)
        own_features = token_moments(local_input.detach(), lengths)
        controller_input = ControllerInput(own_features, local_input.detach(), lengths)
        fraction, is_absolute, recompute_kv = span_action or self._default_action(
            controller_input, cache
        )
        kept = None if cache is None else cache.key_value
        global_out, key_value = self._global(inputs, kept, recompute_kv)
        scale = self._scale(global_out, lengths, cache, fraction, is_absolute)
        local = self.attn_local(
            local_input,
            scale,
            None if inputs.xa is None else self.ln_a(inputs.xa),
            mask=inputs.mask,
            lengths=lengths,
            key_lengths=inputs.key_lengths,
            return_stats=return_stats,
        )
        decided_from = own_features
        if self.options.causal:
            decided_from = self.obs_features(inputs.x, cache=cache).detach()
        output = self.projection(torch.cat([local.output, global_out], dim=-1))
        if lengths is not None:
            output = torch.where(sequence_mask(output.shape[1], lengths)[..., None], output, 0)
        return LayerOutput(
            output=output,
            local_input=local_input,
            local_output=local.output,
            span_scale=scale,
            window=local.spans.window,
            span=local.spans.span,
            qk_pairs=local.qk_pairs,
            num_refinement_steps=local.num_refinement_steps,
            obs_features=decided_from,
            cache=LayerCache(
                key_value,
                token_mean(global_out.detach(), lengths),
                own_features,
                self._obs_to_cache(controller_input),
            ),
            lengths=lengths,
            stats=local.stats,
        )

    def _default_action(
        self, controller_input: ControllerInput, cache: LayerCache | None
    ) -> SpanAction:
        """What the layer itself decides from its input."""
        del controller_input, cache
        return SpanAction()

    def _obs_to_cache(self, controller_input: ControllerInput) -> Tensor | None:
        """What is to be known of this input in the next pass."""
        del controller_input

    def _global(
        self,
        inputs: Inputs,
        cache: KeyValueCache | None,  # noqa: ARG002  (of layers that keep one)
        recompute_kv: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, KeyValueCache | None]:
        """Output of the global path, and what it keeps for the next pass."""
        xa = None if inputs.xa is None else self.ln_b(inputs.xa)
        global_out = self.attn_global(
            self.ln_b(inputs.x), xa, mask=inputs.mask, key_lengths=inputs.key_lengths
        )
        return global_out, None

    def _scale(
        self,
        global_out: Tensor,
        lengths: Tensor | None,
        cache: LayerCache | None,
        fraction: Tensor | None,
        is_absolute: bool,
    ) -> Tensor:
        """Span scale of each sequence, shape (batch,)."""
        if fraction is not None and is_absolute:
            return fraction
        if not self.options.causal:
            read = token_mean(global_out, lengths)[:, None]
        else:
            read = global_out[:, :1] if cache is None else cache.global_mean[:, None]
        scale = self.span_pred(read).squeeze(-1)
        # An integer span passes no gradient on, so none is to pass its temperature alone.
        scale = scale if self.options.soft_span else scale.detach()
        return scale if fraction is None else (scale * fraction).clamp(0, 1)
