"""A local path of sliding windows next to a global path: the pass that all layers share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from spangym.attention.attention_stats import AttentionStats
from spangym.attention.features import (
    NUM_STATES,
    sequence_mask,
    token_mean,
    token_moments,
    zero_padding,
)
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.layers.adaptive_span import AdaptiveSpan
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention, KeyValueCache
from spangym.attention.layers.decoding_cache import DecodingCache
from spangym.attention.layers.modules import (
    CastingLayerNorm,
    CastingLinear,
    Predictor,
    SelfInitializing,
    init_linear,
)
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.pooled_attention import PooledAttention
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.outputs import LayerCache, LayerOutput, check_cache
from spangym.attention.span_config import SpanConfig
from spangym.attention.validation import (
    Inputs,
    check,
    check_actions,
    check_recompute_kv,
    check_sizes,
)
from spangym.utils.readable_repr import readable_repr
from spangym.utils.scalars import as_int

Paths = tuple[SlidingWindowAttention, MultiHeadAttention | None]
"""The local path and the global path, None without one."""


@dataclass(frozen=True)
class ControllerInput:
    """Normalized input of a pass and its features, from which an action is chosen.

    Attributes:
        local_input: Normalized input of the local path, shape (batch, tokens, dims).
        moments: Its means and population variances, shape (batch, 2 * dims), detached.
        obs_features: Moments that the action may depend on, shape (batch, 2 * dims), detached: in a
            causal layer those of the previous pass or, at the start of a stream, of the first
            token.
        lengths: Unpadded length of each sequence, shape (batch,); None without padding.
    """

    __repr__ = readable_repr

    local_input: Tensor
    moments: Tensor
    obs_features: Tensor
    lengths: Tensor | None


@dataclass(frozen=True)
class PreparedInput:
    """The part of a pass that does not depend on the action: `LocalGlobalAttention.prepare`.

    Attributes:
        inputs: Inputs of the pass, checked.
        observed: Normalized input of the local path and its features.
        local_xa: Normalized cross-attention input of the local path; None for self-attention.
        projected: Queries, keys and values of the local path, shape (batch, tokens, dims) each;
            None where it has no projections.
        global_output: Output of the global path, shape (batch, tokens, dims); None without one.
        global_mean: Token mean of what the span predictor reads, shape (batch, dims).
        key_value: Keys and values of the global path; None if it keeps none.
        predicted_scale: Span scale that the span predictor gives, shape (batch,).
        full_lse: Log-sum-exp of the local path's full attention, shape (batch, heads, tokens); None
            where it is not known: see `LocalGlobalAttention.prepare_stats`.
    """

    __repr__ = readable_repr

    inputs: Inputs
    observed: ControllerInput
    local_xa: Tensor | None
    projected: tuple[Tensor, Tensor, Tensor] | None
    global_output: Tensor | None
    global_mean: Tensor
    key_value: KeyValueCache | None
    predicted_scale: Tensor
    full_lse: Tensor | None = None


class LocalGlobalAttention(nn.Module):
    """Attention with a global path and a local path whose span is predicted for each sequence.

    1. ``local = LN_a(x)``, ``globe = LN_b(x)``;
    2. the global path attends to all of ``globe``;
    3. the span predictor maps the token mean of the global output to the span scale ``m``;
    4. the local path attends to ``local`` in windows, within the span that ``m`` gives;
    5. ``y = projection([local output, global output])``.

    ``SpanConfig.global_path`` replaces the full attention of step 2 by attention to blocks of
    tokens (`PooledAttention`), so that the layer becomes cheaper than full attention, or leaves it
    out; step 3 then reads ``globe``, and ``y = projection(local output)``.

    Each sequence of a batch has its own span and is independent of the other sequences.

    **Cross-attention.** With ``xa`` both paths take keys and values from it, under the same
    normalization. The local path pairs positions: window ``i`` of ``x`` attends to its interval of
    ``xa``.

    **Causality.** With ``causal`` a token attends only to itself and earlier tokens, and to all of
    ``xa``. A span computed from the mean over a sequence would reveal later tokens to earlier ones.
    A causal layer therefore computes it, and everything else that it chooses once for a sequence,
    from the previous pass over the stream, or from the first token if there is no cache.

    Args:
        ctx: Largest number of tokens.
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        config: Span options; the class's ``default_config`` if None.
        generator: Source of the initial weights; torch's default generator if None.

    Attributes:
        single_span_per_batch: Whether a batch shares one span, state and reward, a defect of the
            original layer.
        original_class: The class of `original` presets; None if there is none.

    Raises:
        ValueError: A size breaks its rule.
    """

    default_config: SpanConfig = SpanConfig()
    single_span_per_batch = False
    original_class: ClassVar[type[LocalGlobalAttention] | None] = None
    _num_actions = NUM_ACTIONS
    _num_states = NUM_STATES
    _output_class = LayerOutput

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        config: SpanConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        ctx, dims, head = check_sizes(ctx, dims, head)
        self.ctx = ctx
        self.dims = dims
        self.head = head
        # Modules draw weights from the default generator; `reset_parameters` replaces them.
        with torch.random.fork_rng(devices=[]):
            self.span_pred = Predictor(dims)
            self.attn_local, self.attn_global = self._make_paths(config or self.default_config)
            num_paths = 1 if self.attn_global is None else 2
            self.projection = CastingLinear(num_paths * dims, dims)
            self.ln_a = CastingLayerNorm(dims)
            self.ln_b = CastingLayerNorm(dims)
        self.reset_parameters(generator)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"ctx={self.ctx}, dims={self.dims}, head={self.head}"

    def _make_paths(self, config: SpanConfig) -> Paths:
        if config.use_refresh_predictors:
            name = f"{type(self).__name__} with global_path={config.global_path!r}"
            raise ValueError(
                f"use_refresh_predictors must be false: {name} keeps no keys and values"
            )
        local = SlidingWindowAttention(self.dims, self.head, config)
        if config.global_path == "none":
            return local, None
        sizes = (self.dims, self.head, config.causal)
        if config.global_path == "pooled":
            return local, PooledAttention(*sizes, config.pool)
        return local, MultiHeadAttention(*sizes)

    @classmethod
    def _make_original(
        cls,
        ctx: int,
        dims: int,
        head: int,
        fused: bool | None,
        options: dict[str, Any],
        **more: Any,
    ) -> Self:
        """Make the original of exactly this class; ``more`` are arguments of its constructor."""
        original_class = vars(cls).get("original_class")
        if original_class is None:
            raise TypeError(f"{cls.__name__} has no original: call original() of its base class")
        if fused is not None:
            options = {**options, "fused": fused}
        config = dataclasses.replace(original_class.default_config, **options)
        return original_class(ctx, dims, head, config, **more)

    @property
    def num_actions(self) -> int:
        """Number of actions of the refiner; 10 without one."""
        return self._num_actions

    @property
    def config(self) -> SpanConfig:
        """Span options."""
        return self.attn_local.config

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Redraw the weights, as the original does.

        Projections of the global path are drawn from N(0, 0.02), the span predictor from Xavier's
        normal distribution, both with zero biases; everything else has PyTorch's defaults.

        Args:
            generator: Source of the weights; torch's default generator if None.
        """
        # A refiner may be a module; its weights are not the layer's.
        own = [child for name, child in self.named_children() if name != "refiner"]
        modules = [module for child in own for module in child.modules()]
        drawn: set[nn.Module] = set()
        for module in modules:
            if isinstance(module, SelfInitializing):
                module.reset_parameters(generator)
                drawn.update(module.children())
            elif isinstance(module, nn.LayerNorm | AdaptiveSpan):
                module.reset_parameters()
            elif isinstance(module, nn.Linear) and module not in drawn:
                init_linear(module, generator)

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
            x: Input, shape (batch, tokens, dims), ``tokens <= ctx``: float16, bfloat16, float32 or
                float64, which is the dtype of the output too. Weights are cast to it.
            xa: Input of the keys and values, shape (batch, keys, dims), cast to the dtype of ``x``;
                ``x`` if None.
            mask: Boolean (True: attend) or additive mask of both paths, broadcastable to (batch,
                heads, tokens, keys).
            lengths: Unpadded length of each sequence, shape (batch,), integers. Padding may hold
                any value, NaN and infinities included: it affects nothing and has no gradient. Its
                output is 0.
            xa_lengths: Unpadded length of each sequence of ``xa``, shape (batch,), integers.
            return_stats: Whether to return statistics of the local attention weights as well.

        Returns:
            Shape (batch, tokens, dims); with ``return_stats`` a pair of output and statistics.

        Raises:
            ValueError: A shape, type or value is wrong.
        """
        layer_output = self.step(
            x, xa, mask, lengths=lengths, xa_lengths=xa_lengths, return_stats=return_stats
        )
        if layer_output.stats is None:
            return layer_output.output
        return layer_output.output, layer_output.stats

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
        """Run the layer like `forward`, as the next pass over a stream.

        ``cache`` is the previous pass's `LayerOutput.cache`, None at the start of a stream.

        Raises:
            ValueError: A shape, type or value is wrong, or the refiner chose an invalid action.
            RuntimeError: Gradient checkpointing repeats the pass of a learning refiner.
        """
        inputs = Inputs(x, xa, mask, lengths, xa_lengths).validated(self.ctx, self.dims, self.head)
        return self._step(inputs, cache, return_stats)

    def forward_with_action(
        self,
        x: Tensor,
        action: Tensor | int | None = None,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        num_actions: int | None = None,
        recompute_kv: Tensor | None = None,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the layer like `step`, under given actions; no controller is asked, none learns.

        ``action`` holds integers in ``0..num_actions - 1``, one or one for each sequence; the
        predictor alone sets the span if None. ``num_actions`` is that of the layer if None. On an
        accelerator actions are clamped, not checked. ``recompute_kv``, boolean of shape (batch, 2),
        says which keys and values the global path recomputes. It recomputes all of them if None
        (``SpanConfig.use_refresh_predictors`` changes that) and without a cache.

        Raises:
            ValueError: A shape, type or value is wrong, or the layer keeps no keys and values.
        """
        prepared = self.prepare(
            x,
            xa,
            mask,
            recompute_kv=recompute_kv,
            lengths=lengths,
            xa_lengths=xa_lengths,
            cache=cache,
        )
        return self.forward_prepared(
            prepared, action, num_actions=num_actions, return_stats=return_stats
        )

    def prepare(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        recompute_kv: Tensor | None = None,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> PreparedInput:
        """Run the part of `forward_with_action` that does not depend on the action.

        Raises:
            ValueError: A shape, type or value is wrong, or the layer keeps no keys and values.

        Example:
            >>> layer = LocalGlobalAttention(64, 32, 4)
            >>> prepared = layer.prepare(torch.randn(2, 48, 32))
            >>> [int(layer.forward_prepared(prepared, action).window.max()) for action in (0, 9)]
            [1, 128]
        """
        inputs = Inputs(x, xa, mask, lengths, xa_lengths).validated(self.ctx, self.dims, self.head)
        if recompute_kv is not None:
            if not isinstance(self.attn_global, AdaptiveUpdateAttention):
                name = type(self).__name__
                raise ValueError(f"recompute_kv must be None: {name} keeps no keys and values")
            check_recompute_kv(recompute_kv, x.shape[0])
        observed = self._observe(inputs.x, inputs.lengths, cache)
        return self._prepare(inputs, observed, cache, recompute_kv)

    def prepare_stats(self, prepared: PreparedInput) -> PreparedInput:
        """Add the part of the statistics that does not depend on the action, where there is one.

        It saves time if `forward_prepared` is called with ``return_stats`` for many actions.
        """
        inputs, projected = prepared.inputs, prepared.projected
        is_plain = inputs.mask is inputs.xa is inputs.lengths is None
        if projected is None or prepared.full_lse is not None or not is_plain:
            return prepared
        full_lse = self.attn_local.full_log_sum_exp(*projected[:2])
        return dataclasses.replace(prepared, full_lse=full_lse)

    def forward_prepared(
        self,
        prepared: PreparedInput,
        action: Tensor | int | None = None,
        *,
        num_actions: int | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the rest of a pass under given actions: see `forward_with_action`.

        Raises:
            ValueError: A shape, type or value is wrong.
        """
        x = prepared.inputs.x
        fraction = None if action is None else self._span_fraction(action, x, num_actions)
        return self._run(prepared, fraction, return_stats)

    @torch.no_grad()
    def decode(
        self,
        x: Tensor,
        cache: DecodingCache | None = None,
        action: Tensor | int | None = None,
        *,
        num_actions: int | None = None,
    ) -> tuple[Tensor, DecodingCache]:
        """Run a causal layer on the next tokens of a text, one or several, without gradients.

        The output is that of one pass over the whole text (`forward_with_action`, without a cache)
        to rounding, with any numbers of tokens in the calls. All sequences of a batch advance
        together, each with its own span; there are no masks, no padding and no cross-attention. The
        span predictor reads the first token. An action that differs from the one before starts a
        new window at the first token of ``x``.

        The cache holds as many keys and values as the longest span reaches back, and those of the
        global path: one a block if it is pooled; one a token if it is full, and then a text has at
        most ``ctx`` tokens.

        Args:
            x: Next tokens, shape (batch, tokens, dims), at most ``ctx``.
            cache: Cache of the tokens before, which is updated; None at the first token.
            action: Integers in ``0..num_actions - 1``, one or one for each sequence; if None the
                layer's refiner decides, or the predictor alone where there is none.
            num_actions: Number of actions; that of the layer if None.

        Returns:
            Output, shape (batch, tokens, dims), and the cache.

        Raises:
            ValueError: A shape, type or value is wrong, the layer is not causal, or the text is
                too long.

        Example:
            >>> layer = LocalGlobalAttention(64, 32, 4, SpanConfig(causal=True))
            >>> x = torch.randn(2, 48, 32)
            >>> first, cache = layer.decode(x[:, :40], action=4)
            >>> second, cache = layer.decode(x[:, 40:], cache, action=4)
            >>> whole = layer.forward_with_action(x, action=4).output
            >>> torch.allclose(torch.cat([first, second], dim=1), whole, atol=1e-5)
            True
        """
        check([(self.config.causal, "decoding needs a causal layer: SpanConfig(causal=True)")])
        x = Inputs(x).validated(self.ctx, self.dims, self.head).x
        self._check_decoding_cache(x, cache, action)
        fraction = None if action is None else self._span_fraction(action, x, num_actions)
        local_input = self.ln_a(x)
        global_out = global_cache = None
        if self.attn_global is not None:
            global_cache = None if cache is None else cache.global_path
            global_out, global_cache = self.attn_global.decode(self.ln_b(x), global_cache)
        if cache is None:
            first = self.ln_b(x[:, :1]) if global_out is None else global_out[:, :1]
            predicted_scale = self.span_pred(first)[:, 0]
            local_cache = self.attn_local.new_decoding_cache(predicted_scale)
            cache = DecodingCache(local_cache, global_cache, predicted_scale)
        local_out = self._decode_local(local_input, cache, fraction)
        return self._project(local_out, global_out), cache

    def _check_decoding_cache(
        self, x: Tensor, cache: DecodingCache | None, action: Tensor | int | None
    ) -> None:
        """Raise a ValueError for a cache that does not fit, before anything is appended to it."""
        del action
        if cache is None:
            return
        if not isinstance(cache, DecodingCache):
            raise ValueError(f"cache is a {type(cache).__name__}; it must be that of `decode`")
        batch, cached = len(x), len(cache.predicted_scale)
        check([(cached == batch, f"cache has {cached} sequences and x {batch}: they must agree")])
        if self.config.global_path != "full":
            return
        tokens = cache.num_tokens + x.shape[1]
        too_long = f"a full global path holds at most ctx={self.ctx} tokens, got {tokens}"
        check([(tokens <= self.ctx, too_long)])

    def _decode_local(
        self, local_input: Tensor, cache: DecodingCache, fraction: Tensor | None
    ) -> Tensor:
        """Output of the local path for the next tokens, shape (batch, tokens, dims)."""
        scale = self._span_scale(cache.predicted_scale, fraction)
        return self.attn_local.decode(local_input, scale, cache.local)[0]

    def _step(self, inputs: Inputs, cache: LayerCache | None, return_stats: bool) -> LayerOutput:
        observed = self._observe(inputs.x, inputs.lengths, cache)
        return self._run(self._prepare(inputs, observed, cache), None, return_stats)

    def _observe(
        self, x: Tensor, lengths: Tensor | None, cache: LayerCache | None
    ) -> ControllerInput:
        """First part of a pass: normalize the local input and compute its features."""
        if cache is not None:
            check_cache(cache, x.shape[0], self.dims)
        local_input = self.ln_a(x)
        moments = obs_features = token_moments(local_input.detach(), lengths)
        if self.config.causal:
            first = local_input[:, :1].detach()
            obs_features = token_moments(first) if cache is None else cache.obs_features
        return ControllerInput(local_input, moments, obs_features, lengths)

    def _prepare(
        self,
        inputs: Inputs,
        observed: ControllerInput,
        cache: LayerCache | None,
        recompute_kv: Tensor | None = None,
    ) -> PreparedInput:
        """Second part of a pass: everything else that does not depend on the action."""
        mask, lengths, key_lengths = inputs.mask, inputs.lengths, inputs.key_lengths

        # Global path.
        globe = self.ln_b(inputs.x)
        globe_xa = None
        if inputs.xa is not None and self.attn_global is not None:
            globe_xa = self.ln_b(inputs.xa)
        global_out = key_value = None
        if isinstance(self.attn_global, AdaptiveUpdateAttention):
            global_out, key_value = self.attn_global(
                globe,
                globe_xa,
                mask=mask,
                key_lengths=key_lengths,
                cache=None if cache is None else cache.key_value,
                recompute_kv=recompute_kv,
            )
        elif self.attn_global is not None:
            global_out = self.attn_global(globe, globe_xa, mask=mask, key_lengths=key_lengths)

        # Span predictor.
        source = globe if global_out is None else global_out
        global_mean = token_mean(source, lengths)
        predictor_input = global_mean
        if self.config.causal:
            predictor_input = source[:, 0] if cache is None else cache.global_mean
        predicted_scale = self.span_pred(predictor_input[:, None])[:, 0]

        # Local path, up to the span.
        local_xa = None if inputs.xa is None else self.ln_a(inputs.xa)
        projected = None
        if self.attn_local.projections is not None:
            projected = self.attn_local.project(
                observed.local_input, local_xa, lengths=lengths, key_lengths=key_lengths
            )
        return PreparedInput(
            inputs,
            observed,
            local_xa,
            projected,
            global_out,
            global_mean,
            key_value,
            predicted_scale,
        )

    def _run(
        self, prepared: PreparedInput, fraction: Tensor | None, return_stats: bool
    ) -> LayerOutput:
        """Last part of a pass, under an action: a fraction of the span, shape (batch,)."""
        inputs, observed, global_out = prepared.inputs, prepared.observed, prepared.global_output
        lengths = inputs.lengths
        scale = self._span_scale(prepared.predicted_scale, fraction)

        # Local path.
        local = self.attn_local(
            observed.local_input,
            scale,
            prepared.local_xa,
            mask=inputs.mask,
            lengths=lengths,
            key_lengths=inputs.key_lengths,
            projected=prepared.projected,
            full_lse=prepared.full_lse,
            return_stats=return_stats,
        )

        # Projection.
        output = zero_padding(self._project(local.output, global_out), lengths)

        return self._output_class(
            output=output,
            local_input=observed.local_input,
            local_output=local.output,
            span_scale=scale,
            window=local.spans.window,
            span=local.spans.span,
            qk_pairs=local.qk_pairs,
            num_refinement_steps=local.num_refinement_steps,
            obs_features=observed.obs_features,
            cache=LayerCache(
                prepared.key_value,
                prepared.global_mean.detach(),
                observed.moments,
                self._controller_obs_for_cache(observed),
            ),
            lengths=lengths,
            stats=local.stats,
            num_states=self._num_states,
        )

    def _project(self, local_out: Tensor, global_out: Tensor | None) -> Tensor:
        """Output of the layer from the outputs of its paths."""
        if global_out is not None:
            # Autocast cannot concatenate two half-precision types.
            local_out = torch.cat([local_out.to(global_out.dtype), global_out], dim=-1)
        return self.projection(local_out)

    def _span_fraction(
        self, action: Tensor | int, x: Tensor, num_actions: int | None = None
    ) -> Tensor:
        """Actions as fractions of the span, shape (batch,)."""
        if num_actions is None:
            num_actions = self._num_actions
        else:
            num_actions = as_int("num_actions", num_actions, 2)
        actions = check_actions(action, num_actions, x)
        fraction = actions.to(torch.promote_types(x.dtype, torch.float32)) / (num_actions - 1)
        return fraction.clamp(0, 1).expand(x.shape[0])

    def _span_scale(self, predicted: Tensor, fraction: Tensor | None) -> Tensor:
        """Span scale of each sequence, shape (batch,), from the prediction and the action."""
        if fraction is not None and self.config.action_scale == "absolute":
            return fraction
        # Without a soft edge only the temperature depends on the scale: too little to learn from.
        scale = predicted if self.config.soft_span else predicted.detach()
        return scale if fraction is None else (scale * fraction).clamp(0, 1)

    def _controller_obs_for_cache(self, observed: ControllerInput) -> Tensor | None:
        """Observation for a controller that chooses the next pass's actions from this one."""
        del observed

    def obs_features(
        self, x: Tensor, *, lengths: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Features that the action of the coming pass depends on, shape (batch, 2 * dims).

        They are means, then population variances, over the tokens of the normalized input; in a
        causal layer those of the previous pass, which ``cache`` holds, or of the first token.

        Raises:
            ValueError: A shape, type or value is wrong.
        """
        inputs = Inputs(x, lengths=lengths).validated(self.ctx, self.dims, self.head)
        return self._observe(inputs.x, inputs.lengths, cache).obs_features

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
        """Compute the full matrix of attention weights of a path, for plots.

        The local weights are those of each query's last refinement pass at the span scales
        ``scale``, shape (batch,), for example `LayerOutput.span_scale`; the predicted ones if None.
        No refiner is asked. Other arguments are those of `forward`.

        Returns:
            Shape (batch, heads, tokens, keys); of a pooled global path, a block's weight divided by
            its number of tokens. Rows sum to 1, to 0 where nothing is attended to and
            in the padding. Local rows sum to ``1 / m`` with ``scale_weights``.

        Raises:
            ValueError: A shape, type or value is wrong.
        """
        inputs = Inputs(x, xa, mask, lengths, xa_lengths).validated(self.ctx, self.dims, self.head)
        if path not in ("local", "global"):
            raise ValueError(f"path must be 'local' or 'global', got {path!r}")
        x, xa = inputs.x, inputs.xa
        if path == "global":
            if self.attn_global is None:
                raise ValueError("path must be 'local': the layer has no global path")
            globe_xa = None if xa is None else self.ln_b(xa)
            weights = self.attn_global.weights(self.ln_b(x), globe_xa, mask, inputs.key_lengths)
            if inputs.lengths is None:
                return weights
            # Padded queries attend to nothing, as in the local path.
            is_token = sequence_mask(x.shape[1], inputs.lengths)
            return torch.where(is_token[:, None, :, None], weights, 0)
        observed = self._observe(x, inputs.lengths, None)
        if scale is None:
            prepared = self._prepare(inputs, observed, None)
            scale = self._span_scale(prepared.predicted_scale, None)
        local = self.attn_local(
            observed.local_input,
            scale,
            None if xa is None else self.ln_a(xa),
            mask=mask,
            lengths=inputs.lengths,
            key_lengths=inputs.key_lengths,
            return_weights=True,
        )
        return local.weights
