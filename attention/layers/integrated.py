"""IntegratedAttention: a local path of sliding windows beside a global path; its span decided."""

from __future__ import annotations

import operator
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TypeGuard, cast, get_args

import torch
from torch import Tensor, nn

from spangym.attention.controllers.protocol import (
    BatchController,
    Controller,
    SpanController,
    StatefulController,
)
from spangym.attention.features import token_moments, tuple_hash_ids
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention, KeyValueCache
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import MAX_REFINEMENT_STEPS, SlidingWindowAttention
from spangym.attention.layers.two_path import ControllerInput, LocalGlobalAttention, SpanAction
from spangym.attention.outputs import LayerCache, LayerOutput, check_cache
from spangym.attention.span_config import SpanConfig, check_sizes
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.validation import Inputs, check_values
from spangym.utils.suggestions import did_you_mean

ActionScale = Literal["relative", "absolute"]


class IntegratedAttention(LocalGlobalAttention):
    """Attention with a local path whose span is decided for each input.

    1. ``local = LN_a(x)``, ``globe = LN_b(x)``;
    2. the global path attends over all of ``globe`` (`AdaptiveUpdateAttention`);
    3. the span predictor reads ``p`` in (0, 1) off the global output (`Predictor`);
    4. an action ``a`` in 0..9 gives the span scale ``m = clamp(p · a / 9, 0, 1)``; without one,
       ``m = p``;
    5. the local path attends over ``local`` in windows of ``max(1, int(win_size · m))`` queries
       with spans of ``max(1, int(max_span · m))`` keys (`SlidingWindowAttention`); ``m = 0`` turns
       it off;
    6. ``y = projection([local output, global output])``.

    Every sequence of a batch has a span of its own and never depends on its neighbors.

    Where ``refiner`` is set and no action is handed in, the refiner chooses it from the state id
    of the sequence's normalized input. In train mode it also learns, from the quality of the local
    output and the state id of that output (the original's bootstrap); in eval mode it is asked for
    its ``greedy_action``, if it has one. What it has learned is saved
    with the layer (`spangym.attention.StatefulController`). A `spangym.attention.BatchController`,
    as `spangym.attention.load_controller` gives, decides for all sequences on their device instead, in
    train and in eval mode, and learns nothing. One that observes the ``current`` input reads the
    whole of it, in a causal layer too.

    Cross-attention and causality are explained at `LocalGlobalAttention`.

    A pass changes nothing but the refiner, in train mode, so that gradient checkpointing may run
    it twice. A learning refiner has to be asked before and told after: checkpoint
    ``layer.forward_with_action(x, action)`` with ``action = layer.select_actions(x)``, then ``layer.update_controller(outcome,
    action)``.

    The refresh predictors decide by a threshold, and get no gradient; the span predictor gets one
    with ``soft_span`` only. Distributed training has to be told (``find_unused_parameters=True``).

    Args:
        ctx: Longest sequence, in tokens.
        dims: Width of input and output; at least 4.
        head: Number of heads; divides ``dims``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        temperature_law: Name of the temperature law: see `spangym.attention.temperature`.
        scale_weights: Whether local attention weights are multiplied by ``1 / m``.
        causal: Whether a token sees none after it.
        soft_span: Whether the edge of the interval fades out over ``soft_edge_width`` tokens, which gives the
            span predictor a gradient.
        soft_edge_width: Tokens over which a soft edge fades out.
        action_scale: ``relative``: an action is a share of the predicted span; ``absolute``: of the
            longest one, ``m = a / 9``.
        local_projections: Whether the local path learns projections of queries, keys and values.
        num_refinement_steps: Most passes of iterative focus, at least 1.
        num_induction_heads: How many local heads take the key of the token before, so that they can
            continue what was seen before: see `SlidingWindowAttention`.
        refiner: Controller of the span, any `SpanController` or `BatchController`.
        generator: Source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> layer = IntegratedAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape
        torch.Size([2, 48, 32])
        >>> outcome = layer.forward_with_action(x, action=torch.tensor([0, 9]))
        >>> outcome.span[0].item(), bool(outcome.span[1] >= outcome.window[1])
        (0, True)
        >>> y, stats = layer(x, return_stats=True)
        >>> bool((stats.coverage <= 1).all()), stats.effective_span.shape
        (True, torch.Size([2]))
    """

    attn_global: AdaptiveUpdateAttention
    _decides_on_device = False

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        max_dist: int = 512,
        win_size: int = 256,
        max_span: int = 384,
        temp_scale: float = 0.01,
        *,
        temperature_law: TemperatureLaw = "longer",
        scale_weights: bool = False,
        causal: bool = False,
        soft_span: bool = False,
        soft_edge_width: int = 32,
        action_scale: ActionScale = "relative",
        local_projections: bool = False,
        num_refinement_steps: int = MAX_REFINEMENT_STEPS,
        num_induction_heads: int = 0,
        refiner: Controller | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        options = SpanConfig(
            win_size=win_size,
            max_span=max_span,
            max_dist=max_dist,
            temp_scale=temp_scale,
            temperature_law=temperature_law,
            scale_weights=scale_weights,
            causal=causal,
            soft_span=soft_span,
            soft_edge_width=soft_edge_width,
        )
        if action_scale not in get_args(ActionScale):
            raise ValueError(
                f"action_scale {action_scale!r} is unknown"
                f"{did_you_mean(str(action_scale), get_args(ActionScale))}"
            )
        check_sizes(ctx, dims, head)
        with torch.random.fork_rng(devices=[]):
            attn_local = self._local_path(
                head,
                options,
                dims if local_projections else None,
                num_refinement_steps,
                num_induction_heads,
            )
            attn_global = self._global_path(dims, head, causal)
        super().__init__(ctx, dims, head, attn_local, attn_global, generator)
        self.action_scale = action_scale
        self.refiner = refiner

    @classmethod
    def original(
        cls,
        ctx: int,
        dims: int,
        head: int,
        max_dist: int = 512,
        win_size: int = 256,
        max_span: int = 384,
        temp_scale: float = 0.01,
        *,
        temperature_law: TemperatureLaw = "longer",
        action_scale: ActionScale = "relative",
        fixes: str = "",
        refiner: Controller | None = None,
        generator: torch.Generator | None = None,
    ) -> IntegratedAttention:
        """The layer as it was, defects and all: see `spangym.attention.original.layer`.

        Arguments are those of the layer, and one more.

        Args:
            ctx: As of the layer, likewise all that follow.
            dims: Width.
            head: Heads.
            max_dist: Bound on the span.
            win_size: Longest window.
            max_span: Longest span.
            temp_scale: Strength of the temperature law.
            temperature_law: The law.
            action_scale: What an action is a share of.
            fixes: Name of one defect that is fixed, the others kept: ``temperature``,
                ``local_causal``, ``global_causal``, ``double_scale`` or ``cut``; none if empty.
            refiner: Controller of the span.
            generator: Source of the initial weights.

        Raises:
            ValueError: An argument breaks its rule.
        """
        from spangym.attention.original.layer import OriginalIntegratedAttention

        return OriginalIntegratedAttention(
            ctx,
            dims,
            head,
            max_dist,
            win_size,
            max_span,
            temp_scale,
            temperature_law=temperature_law,
            action_scale=action_scale,
            fixes=fixes,
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
        return SlidingWindowAttention(
            head,
            options,
            dims,
            num_refinement_steps=num_refinement_steps,
            num_induction_heads=num_induction_heads,
        )

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        return AdaptiveUpdateAttention(dims, head, causal)

    def select_actions(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor | None:
        """Ask the refiner for the actions of the coming pass.

        That copies to the host, but for a `BatchController`.

        Args:
            x: Shape (batch, tokens, dims).
            lengths: Tokens of each sequence that are no padding, shape (batch,), integers.
            cache: The last outcome's; None where a stream begins.

        Returns:
            Actions, integers of shape (batch,); None if there is no refiner.

        Raises:
            ValueError: The refiner chose what is no action.
        """
        if self.refiner is None:
            return None
        return self._query_controller(self._validate_inputs(x, None, None, lengths, None), cache)

    def forward_with_action(
        self,
        x: Tensor,
        action: Tensor | int | None = None,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        recompute_kv: Tensor | None = None,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the layer under a given decision and say what it did; nothing learns.

        Args:
            x: Shape (batch, tokens, dims), ``tokens <= ctx``.
            action: Action of each sequence, integers 0..9 of shape (batch,), or one for all; without
                it the span scale is the predictor's. On an accelerator values are not looked at:
                those below and above are taken as 0 and 9.
            xa: Where keys and values come from, shape (batch, keys, dims); ``x`` if None.
            mask: Boolean (True: may be seen) or added to the scores, for both paths; broadcastable
                to (batch, heads, tokens, keys).
            recompute_kv: Whether the global path computes keys, and whether it computes values, anew,
                boolean of shape (batch, 2); without it the layer's refresh predictors decide.
                Where there is no cache everything is computed, whatever is decided.
            lengths: Tokens of each sequence that are no padding, shape (batch,), integers.
            xa_lengths: The same of ``xa``.
            cache: The last outcome's; None where a stream begins.
            return_stats: Whether to give statistics of the local path's attention weights.

        Returns:
            Output, cache, spans and price.

        Raises:
            ValueError: A shape or type is wrong, the cache is of another shape, or the action
                is none of 0..9, or the layer keeps nothing that could be used again.
        """
        inputs = self._validate_inputs(x, xa, mask, lengths, xa_lengths)
        fraction, is_absolute = self._span_fraction(x, action)
        if recompute_kv is not None:
            self._check_recompute_kv(recompute_kv, len(x))
        return self._run(
            inputs, cache, return_stats, SpanAction(fraction, is_absolute, recompute_kv)
        )

    def _step(self, inputs: Inputs, cache: LayerCache | None, return_stats: bool) -> LayerOutput:
        if self.refiner is None or self._batch_controller is not None:
            return self._run(inputs, cache, return_stats)
        if torch._C._current_graph_task_id() != -1 and not self._is_greedy:
            raise RuntimeError(
                "gradient checkpointing runs this pass twice, and would ask the refiner twice: "
                "checkpoint layer.forward_with_action(x, action) with action = layer.select_actions(x), and have it "
                "learn by layer.update_controller(outcome, action)"
            )
        action = self._query_controller(inputs, cache)
        span_action = SpanAction(*self._span_fraction(inputs.x, action))
        outcome = self._run(inputs, cache, return_stats, span_action)
        if self._learns:
            self.update_controller(outcome, action)
        return outcome

    def update_controller(self, outcome: LayerOutput, action: Tensor) -> None:
        """Have the refiner learn what its decisions led to; copies to the host.

        `forward` and `step` do so in train mode. After `forward_with_action` it is for the caller to do, say
        under gradient checkpointing. A `BatchController` learns nothing.

        Args:
            outcome: What came of them.
            action: The decisions, integers of shape (batch,), of `select_actions`.
        """
        if self.refiner is None or self._batch_controller is not None:
            return
        rewards = outcome.reward.tolist()
        decisions = (outcome.state, action.tolist(), rewards, outcome.next_state)
        refiner = cast(SpanController, self.refiner)
        for span_action in zip(*decisions, strict=True):
            refiner.update(*span_action)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            _check_refiner(value)
            refiner: object = value
            decides_on_device = isinstance(refiner, BatchController)
            if decides_on_device:
                refiner.check(self.dims, self.action_scale)
            # Kept, since to compare with a protocol takes longer than many a decision.
            self._decides_on_device = decides_on_device
            # A module that controlled the layer before is no longer part of it.
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    def _save_to_state_dict(
        self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if _has_state_dict(self.refiner):
            for name, tensor in self.refiner.state_dict().items():
                destination[f"{prefix}refiner.{name}"] = tensor

    def _load_from_state_dict(
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        start = f"{prefix}refiner."
        if _has_state_dict(self.refiner):
            names = [name for name in state_dict if name.startswith(start)]
            stored = {name.removeprefix(start): state_dict.pop(name) for name in names}
            if stored:
                try:
                    self.refiner.load_state_dict(stored)
                except (KeyError, ValueError) as error:
                    error_msgs.append(f"the refiner cannot take what is stored of it: {error}")
            elif strict:
                missing_keys.append(f"{start}*")
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _global(
        self, inputs: Inputs, cache: KeyValueCache | None, recompute_kv: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        return self.attn_global(
            self.ln_b(inputs.x),
            None if inputs.xa is None else self.ln_b(inputs.xa),
            mask=inputs.mask,
            key_lengths=inputs.key_lengths,
            cache=cache,
            recompute_kv=recompute_kv,
        )

    def _check_recompute_kv(self, recompute_kv: Tensor, batch: int) -> None:
        if not isinstance(self.attn_global, AdaptiveUpdateAttention):
            raise ValueError(
                f"recompute_kv must be None: {type(self).__name__} keeps no keys and values to use again"
            )
        if recompute_kv.shape != (batch, 2) or recompute_kv.dtype != torch.bool:
            raise ValueError(
                f"recompute_kv has shape {tuple(recompute_kv.shape)} and type {recompute_kv.dtype}; it must be "
                f"boolean of shape ({batch}, 2): keys and values of each sequence"
            )

    def _query_controller(self, inputs: Inputs, cache: LayerCache | None) -> Tensor:
        """The refiner's actions."""
        controller = self._batch_controller
        if controller is not None:
            local_input = self.ln_a(inputs.x).detach()
            controller_input = ControllerInput(
                token_moments(local_input, inputs.lengths), local_input, inputs.lengths
            )
            return controller.actions(self._controller_obs(controller, controller_input, cache))
        states = tuple_hash_ids(self.obs_features(inputs.x, lengths=inputs.lengths, cache=cache))
        name = "greedy_action" if self._is_greedy else "choose_action"
        chosen = [getattr(self.refiner, name)(state) for state in states]
        try:
            # Integers of any library, arrays of one of them too.
            actions = [operator.index(action) for action in chosen]
        except TypeError:
            actions = [-1]
        if not set(actions) <= set(range(NUM_ACTIONS)):
            raise ValueError(f"refiner must choose actions in 0..{NUM_ACTIONS - 1}, chose {chosen}")
        return torch.tensor(actions, device=inputs.x.device)

    def _default_action(
        self, controller_input: ControllerInput, cache: LayerCache | None
    ) -> SpanAction:
        controller = self._batch_controller
        if controller is None:
            return SpanAction()
        actions = controller.actions(self._controller_obs(controller, controller_input, cache))
        return SpanAction(*self._span_fraction(controller_input.local_input, actions))

    def _controller_obs(
        self,
        controller: BatchController,
        controller_input: ControllerInput,
        cache: LayerCache | None,
    ) -> Tensor:
        """What a decision is made from."""
        if controller.observation_time == "current":
            return controller.observe(*controller_input)
        if cache is not None:
            check_cache(cache, len(controller_input.local_input), self.dims)
            if cache.controller_obs is not None:
                return cache.controller_obs
        # Where there is no pass before, the first token, which every token may know of.
        first = controller_input.local_input[:, :1]
        return controller.observe(token_moments(first), first)

    def _obs_to_cache(self, controller_input: ControllerInput) -> Tensor | None:
        controller = self._batch_controller
        if controller is None or controller.observation_time == "current":
            return None
        return controller.observe(*controller_input)

    def _span_fraction(self, x: Tensor, action: Tensor | int | None) -> tuple[Tensor | None, bool]:
        """The action as a share of the span, (batch,), and whether it is of the longest span.

        On an accelerator values are not looked at.
        """
        is_absolute = self.action_scale == "absolute"
        if action is None:
            return None, False
        wrong = isinstance(action, int) and action not in range(NUM_ACTIONS)
        if isinstance(action, float) or wrong:
            raise ValueError(f"action must be an integer in 0..{NUM_ACTIONS - 1}, got {action!r}")
        actions = torch.as_tensor(action, device=x.device)
        whole = not actions.dtype.is_floating_point and actions.dtype != torch.bool
        if actions.shape not in ((), (1,), (len(x),)) or not whole:
            raise ValueError(
                f"action has shape {tuple(actions.shape)} and type {actions.dtype}; it must be one "
                f"integer or one for each of the {len(x)} sequences"
            )
        check_values("action", actions, 0, NUM_ACTIONS - 1)
        actions = actions.to(torch.promote_types(x.dtype, torch.float32))
        return (actions / (NUM_ACTIONS - 1)).clamp(0, 1).expand(len(x)), is_absolute

    @property
    def _batch_controller(self) -> BatchController | None:
        """The refiner, if it decides for all sequences on their device."""
        return cast(BatchController, self.refiner) if self._decides_on_device else None

    @property
    def _is_greedy(self) -> bool:
        """Whether the refiner is asked what it thinks best, which changes nothing."""
        return not self.training and hasattr(self.refiner, "greedy_action")

    @property
    def _learns(self) -> bool:
        """Whether the refiner learns from this pass."""
        return self.training


def _check_refiner(refiner: object) -> None:
    if isinstance(refiner, type):
        raise TypeError(f"refiner is the class {refiner.__name__}; it must be made: call the class")
    if refiner is not None and not isinstance(refiner, SpanController | BatchController):
        raise TypeError(
            "refiner must have the methods choose_action(state) and update(state, action, reward, "
            f"next_state), {type(refiner).__name__} has not"
        )


def _has_state_dict(refiner: object) -> TypeGuard[StatefulController]:
    """Whether a layer stores what it knows: modules are stored by torch itself."""
    return isinstance(refiner, StatefulController) and not isinstance(refiner, nn.Module)
