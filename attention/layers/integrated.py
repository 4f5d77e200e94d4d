"""IntegratedAttention: a local path of sliding windows beside a global path; its span decided."""

from __future__ import annotations

import operator
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TypeGuard, cast, get_args

import torch
from torch import Tensor, nn

from spangym.attention.controllers.protocol import (
    Controller,
    SpanController,
    StoredController,
    TensorController,
)
from spangym.attention.features import features, state_ids
from spangym.attention.geometry import ACTIONS
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention, KeyValueCache
from spangym.attention.layers.multi_head import MultiHeadAttention
from spangym.attention.layers.sliding_window import FOCUS_STEPS, SlidingWindowAttention
from spangym.attention.layers.two_path import Decision, Observable, TwoPathAttention
from spangym.attention.outputs import LayerCache, Outcome, check_cache
from spangym.attention.span_config import SpanOptions, check_sizes
from spangym.attention.temperature import Sharpen
from spangym.attention.validation import Inputs, check_values
from spangym.utils.suggestions import did_you_mean

ActionScale = Literal["relative", "absolute"]


class IntegratedAttention(TwoPathAttention):
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

    Every sequence of a batch is a lane with a span of its own and never depends on its neighbours.

    Where ``refiner`` is set and no action is handed in, the refiner chooses it from the state id
    of the lane's normalised input. In train mode it also learns, from the quality of the local
    output and the state id of that output (the original's bootstrap); in eval mode it is asked for
    its ``greedy_action``, if it has one. What it has learnt is saved
    with the layer (`spangym.attention.StoredController`). A `spangym.attention.TensorController`,
    as `spangym.attention.load_controller` gives, decides for all lanes on their device instead, in
    train and in eval mode, and learns nothing. One that observes the ``current`` input reads the
    whole of it, in a causal layer too.

    Cross-attention and causality are explained at `TwoPathAttention`.

    A pass changes nothing but the refiner, in train mode, so that gradient checkpointing may run
    it twice. A learning refiner has to be asked before and told after: checkpoint
    ``layer.outcome(x, action)`` with ``action = layer.decide(x)``, then ``layer.learn(outcome,
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
        sharpen: Sharper scores for longer spans (True), for shorter ones (False), or a law's name:
            see `spangym.attention.temperature`.
        scale_weights: Whether local attention weights are multiplied by ``1 / m``.
        causal: Whether a token sees none after it.
        soft_span: Whether the edge of the interval fades out over ``ramp`` tokens, which gives the
            span predictor a gradient.
        ramp: Tokens over which a soft edge fades out.
        action_scale: ``relative``: an action is a share of the predicted span; ``absolute``: of the
            longest one, ``m = a / 9``.
        local_projections: Whether the local path learns projections of queries, keys and values.
        focus_steps: Most passes of iterative focus, at least 1.
        shifted_heads: How many local heads take the key of the token before, so that they can
            continue what was seen before: see `SlidingWindowAttention`.
        refiner: Controller of the span, any `SpanController` or `TensorController`.
        generator: Source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> layer = IntegratedAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape
        torch.Size([2, 48, 32])
        >>> outcome = layer.outcome(x, action=torch.tensor([0, 9]))
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
        sharpen: Sharpen = True,
        scale_weights: bool = False,
        causal: bool = False,
        soft_span: bool = False,
        ramp: int = 32,
        action_scale: ActionScale = "relative",
        local_projections: bool = False,
        focus_steps: int = FOCUS_STEPS,
        shifted_heads: int = 0,
        refiner: Controller | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        options = SpanOptions(
            win_size=win_size,
            max_span=max_span,
            max_dist=max_dist,
            temp_scale=temp_scale,
            sharpen=sharpen,
            scale_weights=scale_weights,
            causal=causal,
            soft_span=soft_span,
            ramp=ramp,
        )
        if action_scale not in get_args(ActionScale):
            raise ValueError(
                f"action_scale {action_scale!r} is unknown"
                f"{did_you_mean(str(action_scale), get_args(ActionScale))}"
            )
        check_sizes(ctx, dims, head)
        with torch.random.fork_rng(devices=[]):
            attn_local = self._local_path(
                head, options, dims if local_projections else None, focus_steps, shifted_heads
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
        sharpen: bool = True,
        action_scale: ActionScale = "relative",
        mended: str = "",
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
            sharpen: The law.
            action_scale: What an action is a share of.
            mended: Name of one defect that is mended, the others kept: ``temperature``,
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
            sharpen=sharpen,
            action_scale=action_scale,
            mended=mended,
            refiner=refiner,
            generator=generator,
        )

    def _local_path(
        self,
        head: int,
        options: SpanOptions,
        dims: int | None,
        focus_steps: int,
        shifted_heads: int,
    ) -> SlidingWindowAttention:
        return SlidingWindowAttention(
            head, options, dims, focus_steps=focus_steps, shifted_heads=shifted_heads
        )

    def _global_path(self, dims: int, head: int, causal: bool) -> MultiHeadAttention:
        return AdaptiveUpdateAttention(dims, head, causal)

    def decide(
        self,
        x: Tensor,
        *,
        lengths: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor | None:
        """Ask the refiner for the actions of the coming pass.

        That copies to the host, but for a `TensorController`.

        Args:
            x: Shape (lanes, tokens, dims).
            lengths: Tokens of each lane that are no padding, shape (lanes,), integers.
            cache: The last outcome's; None where a stream begins.

        Returns:
            Actions, integers of shape (lanes,); None if there is no refiner.

        Raises:
            ValueError: The refiner chose what is no action.
        """
        if self.refiner is None:
            return None
        return self._asked(self._checked(x, None, None, lengths, None), cache)

    def outcome(
        self,
        x: Tensor,
        action: Tensor | int | None = None,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        refresh: Tensor | None = None,
        lengths: Tensor | None = None,
        xa_lengths: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> Outcome:
        """Run the layer under a given decision and say what it did; nothing learns.

        Args:
            x: Shape (lanes, tokens, dims), ``tokens <= ctx``.
            action: Action of each lane, integers 0..9 of shape (lanes,), or one for all; without
                it the span scale is the predictor's. On an accelerator values are not looked at:
                those below and above are taken as 0 and 9.
            xa: Where keys and values come from, shape (lanes, keys, dims); ``x`` if None.
            mask: Boolean (True: may be seen) or added to the scores, for both paths; broadcastable
                to (lanes, heads, tokens, keys).
            refresh: Whether the global path computes keys, and whether it computes values, anew,
                boolean of shape (lanes, 2); without it the layer's refresh predictors decide.
                Where there is no cache everything is computed, whatever is decided.
            lengths: Tokens of each lane that are no padding, shape (lanes,), integers.
            xa_lengths: The same of ``xa``.
            cache: The last outcome's; None where a stream begins.
            return_stats: Whether to give statistics of the local path's attention weights.

        Returns:
            Output, cache, spans and price.

        Raises:
            ValueError: A shape or type is wrong, the cache is of another shape, or the action
                is none of 0..9, or the layer keeps nothing that could be used again.
        """
        inputs = self._checked(x, xa, mask, lengths, xa_lengths)
        share, absolute = self._share(x, action)
        if refresh is not None:
            self._check_refresh(refresh, len(x))
        return self._run(inputs, cache, return_stats, Decision(share, absolute, refresh))

    def _step(self, inputs: Inputs, cache: LayerCache | None, return_stats: bool) -> Outcome:
        if self.refiner is None or self._tensor_controller is not None:
            return self._run(inputs, cache, return_stats)
        if torch._C._current_graph_task_id() != -1 and not self._is_greedy:
            raise RuntimeError(
                "gradient checkpointing runs this pass twice, and would ask the refiner twice: "
                "checkpoint layer.outcome(x, action) with action = layer.decide(x), and have it "
                "learn by layer.learn(outcome, action)"
            )
        action = self._asked(inputs, cache)
        decision = Decision(*self._share(inputs.x, action))
        outcome = self._run(inputs, cache, return_stats, decision)
        if self._learns:
            self.learn(outcome, action)
        return outcome

    def learn(self, outcome: Outcome, action: Tensor) -> None:
        """Have the refiner learn what its decisions led to; copies to the host.

        `forward` and `step` do so in train mode. After `outcome` it is for the caller to do, say
        under gradient checkpointing. A `TensorController` learns nothing.

        Args:
            outcome: What came of them.
            action: The decisions, integers of shape (lanes,), of `decide`.
        """
        if self.refiner is None or self._tensor_controller is not None:
            return
        rewards = outcome.reward.tolist()
        decisions = (outcome.state, action.tolist(), rewards, outcome.next_state)
        refiner = cast(SpanController, self.refiner)
        for decision in zip(*decisions, strict=True):
            refiner.update(*decision)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            _check_refiner(value)
            refiner: object = value
            decides_on_device = isinstance(refiner, TensorController)
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
        if _stores_itself(self.refiner):
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
        if _stores_itself(self.refiner):
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
        self, inputs: Inputs, cache: KeyValueCache | None, refresh: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        return self.attn_global(
            self.ln_b(inputs.x),
            None if inputs.xa is None else self.ln_b(inputs.xa),
            mask=inputs.mask,
            key_lengths=inputs.key_lengths,
            cache=cache,
            refresh=refresh,
        )

    def _check_refresh(self, refresh: Tensor, lanes: int) -> None:
        if not isinstance(self.attn_global, AdaptiveUpdateAttention):
            raise ValueError(
                f"refresh must be None: {type(self).__name__} keeps no keys and values to use again"
            )
        if refresh.shape != (lanes, 2) or refresh.dtype != torch.bool:
            raise ValueError(
                f"refresh has shape {tuple(refresh.shape)} and type {refresh.dtype}; it must be "
                f"boolean of shape ({lanes}, 2): keys and values of each lane"
            )

    def _asked(self, inputs: Inputs, cache: LayerCache | None) -> Tensor:
        """The refiner's actions."""
        controller = self._tensor_controller
        if controller is not None:
            local_input = self.ln_a(inputs.x).detach()
            observable = Observable(
                features(local_input, inputs.lengths), local_input, inputs.lengths
            )
            return controller.actions(self._observed(controller, observable, cache))
        states = state_ids(self.features(inputs.x, lengths=inputs.lengths, cache=cache))
        name = "greedy_action" if self._is_greedy else "choose_action"
        chosen = [getattr(self.refiner, name)(state) for state in states]
        try:
            # Integers of any library, arrays of one of them too.
            actions = [operator.index(action) for action in chosen]
        except TypeError:
            actions = [-1]
        if not set(actions) <= set(range(ACTIONS)):
            raise ValueError(f"refiner must choose actions in 0..{ACTIONS - 1}, chose {chosen}")
        return torch.tensor(actions, device=inputs.x.device)

    def _own_decision(self, observable: Observable, cache: LayerCache | None) -> Decision:
        controller = self._tensor_controller
        if controller is None:
            return Decision()
        actions = controller.actions(self._observed(controller, observable, cache))
        return Decision(*self._share(observable.local_input, actions))

    def _observed(
        self, controller: TensorController, observable: Observable, cache: LayerCache | None
    ) -> Tensor:
        """What a decision is made from."""
        if controller.observes == "current":
            return controller.observe(*observable)
        if cache is not None:
            check_cache(cache, len(observable.local_input), self.dims)
            if cache.observed is not None:
                return cache.observed
        # Where there is no pass before, the first token, which every token may know of.
        first = observable.local_input[:, :1]
        return controller.observe(features(first), first)

    def _to_remember(self, observable: Observable) -> Tensor | None:
        controller = self._tensor_controller
        if controller is None or controller.observes == "current":
            return None
        return controller.observe(*observable)

    def _share(self, x: Tensor, action: Tensor | int | None) -> tuple[Tensor | None, bool]:
        """The action as a share of the span, (lanes,), and whether it is of the longest span.

        On an accelerator values are not looked at.
        """
        absolute = self.action_scale == "absolute"
        if action is None:
            return None, False
        wrong = isinstance(action, int) and action not in range(ACTIONS)
        if isinstance(action, float) or wrong:
            raise ValueError(f"action must be an integer in 0..{ACTIONS - 1}, got {action!r}")
        actions = torch.as_tensor(action, device=x.device)
        whole = not actions.dtype.is_floating_point and actions.dtype != torch.bool
        if actions.shape not in ((), (1,), (len(x),)) or not whole:
            raise ValueError(
                f"action has shape {tuple(actions.shape)} and type {actions.dtype}; it must be one "
                f"integer or one for each of the {len(x)} lanes"
            )
        check_values("action", actions, 0, ACTIONS - 1)
        actions = actions.to(torch.promote_types(x.dtype, torch.float32))
        return (actions / (ACTIONS - 1)).clamp(0, 1).expand(len(x)), absolute

    @property
    def _tensor_controller(self) -> TensorController | None:
        """The refiner, if it decides for all lanes on their device."""
        return cast(TensorController, self.refiner) if self._decides_on_device else None

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
    if refiner is not None and not isinstance(refiner, SpanController | TensorController):
        raise TypeError(
            "refiner must have the methods choose_action(state) and update(state, action, reward, "
            f"next_state), {type(refiner).__name__} has not"
        )


def _stores_itself(refiner: object) -> TypeGuard[StoredController]:
    """Whether a layer stores what it knows: modules are stored by torch itself."""
    return isinstance(refiner, StoredController) and not isinstance(refiner, nn.Module)
