"""IntegratedAttention: a controller sets the span of the local path for each sequence."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Self, TypeGuard, cast

import torch
from torch import Tensor, nn

from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.protocol import (
    BatchController,
    Controller,
    SpanController,
    StatefulController,
    num_actions_of,
    num_states_of,
)
from spangym.attention.features import token_moments
from spangym.attention.layers.cached_attention import AdaptiveUpdateAttention
from spangym.attention.layers.decoding_cache import DecodingCache, WindowDecisions
from spangym.attention.layers.local_global import ControllerInput, LocalGlobalAttention, Paths
from spangym.attention.layers.sliding_window import SlidingWindowAttention
from spangym.attention.original.layer import OriginalDefects
from spangym.attention.outputs import LayerCache, LayerOutput
from spangym.attention.span_config import ActionScale, SpanConfig
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.validation import Inputs
from spangym.utils.readable_repr import short_repr


class IntegratedAttention(LocalGlobalAttention):
    """Attention with a global path and a local path whose span is an action.

    1. ``local = LN_a(x)``, ``globe = LN_b(x)``;
    2. the controller chooses one of its ``A`` actions, ``a`` in ``0..A - 1``, from the features of
       ``local``;
    3. the global path attends to all of ``globe`` (`AdaptiveUpdateAttention`);
    4. the span predictor maps the token mean of the global output to ``p`` in (0, 1);
    5. the span scale is ``m = clamp(p · a / (A - 1), 0, 1)``, or ``m = p`` without an
       action;
    6. the local path attends to ``local`` in windows of ``max(1, int(win_size · m))`` queries with
       spans of ``max(1, int(max_span · m))`` keys (`SlidingWindowAttention`); ``m = 0`` turns it
       off;
    7. ``y = projection([local output, global output])``.

    Each sequence of a batch has its own span and is independent of the other sequences.
    `LocalGlobalAttention` describes cross-attention and causality.

    **Controller.** ``refiner`` is any `SpanController`: it chooses actions from state ids and, in
    train mode, learns from the quality of the local output and the state id of that output (the
    original's bootstrap). Its attributes ``actions`` and ``states``, 10 and 10,000 without, set the
    number of actions and the modulus of the ids. In eval mode its ``greedy_action`` is used, if it
    has one. What it has learned is saved with the layer (`StatefulController`). A
    `BatchController`, for example from `spangym.attention.load_controller`, chooses for all
    sequences on their device and never learns. With ``observation_time="current"`` it observes the
    whole input, in a causal layer too. A layer without a controller makes an `ExportedPolicy` from
    a state dict that contains one; any other controller must be assigned before it is loaded.

    **Decoding.** Without an action, `decode` asks the controller for each window of each sequence.
    It observes the tokens of the window before, or for the first window the first token of the
    text, whatever its ``observation_time`` is. The action sets window, span and temperature of the
    next window, together with what the span predictor gave for the first token. In train mode a
    controller explores, but it does not learn.

    **Gradient checkpointing** repeats a pass, which changes a learning refiner only. Checkpoint
    ``layer.forward_with_action(x, action)`` with ``action = layer.select_actions(x)``, then call
    ``layer.update_controller(layer_output, action)``.

    **Distributed training** needs ``find_unused_parameters=True``: the refresh predictors have no
    gradient; the span predictor, and ``ln_b`` without a global path, have one with ``soft_span``
    only.

    Args:
        ctx: Largest number of tokens.
        dims: Width of input and output, at least 4.
        head: Number of heads; divides ``dims``.
        config: Span options; ``SpanConfig()`` if None.
        refiner: Controller of the span; the span predictor alone if None.
        generator: Source of the initial weights; torch's default generator if None.

    Raises:
        ValueError: A size breaks its rule.

    Example:
        >>> layer = IntegratedAttention(64, 32, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(1))
        >>> layer(x).shape
        torch.Size([2, 48, 32])
        >>> layer_output = layer.forward_with_action(x, action=torch.tensor([0, 9]))
        >>> layer_output.span[0].item(), bool(layer_output.span[1] >= layer_output.window[1])
        (0, True)
        >>> y, stats = layer(x, return_stats=True)
        >>> bool((stats.coverage <= 1).all()), stats.effective_span.shape
        (True, torch.Size([2]))
    """

    # Set with `refiner`: to check a protocol in every pass takes longer than many controllers.
    _has_batch_controller = False
    _learns_in_eval = False

    def __init__(
        self,
        ctx: int,
        dims: int,
        head: int,
        config: SpanConfig | None = None,
        *,
        refiner: Controller | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(ctx, dims, head, config, generator=generator)
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
        fused: bool | None = None,
        fixes: str | Iterable[str] = (),
        refiner: Controller | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """Make the original of this class, with its defects.

        `spangym.attention.original.layer` and ``focus`` list the defects. Options are those of
        `SpanConfig`. ``fused`` says whether local attention is fused: causal, without temperature;
        if None it is as in the original, fused in `IntegratedAttention` only. ``fixes`` names the
        defects to fix, one or several of ``temperature``, ``local_causal``, ``global_causal``,
        ``double_scale`` and ``cut``.

        Raises:
            TypeError: A subclass has no original.
            ValueError: An argument breaks its rule.
        """
        options = {
            "win_size": win_size,
            "max_span": max_span,
            "max_dist": max_dist,
            "temp_scale": temp_scale,
            "temperature_law": temperature_law,
            "action_scale": action_scale,
            "fixes": fixes,
        }
        return cls._make_original(
            ctx, dims, head, fused, options, refiner=refiner, generator=generator
        )

    def _make_paths(self, config: SpanConfig) -> Paths:
        if config.global_path != "full":
            return super()._make_paths(config)
        local = SlidingWindowAttention(self.dims, self.head, config)
        attn_global = AdaptiveUpdateAttention(
            self.dims, self.head, config.causal, config.use_refresh_predictors
        )
        return local, attn_global

    def extra_repr(self) -> str:
        """Sizes and the controller; one that is a module is listed with the modules."""
        if self.refiner is None or isinstance(self.refiner, nn.Module):
            return super().extra_repr()
        return f"{super().extra_repr()}, refiner={short_repr(self.refiner)}"

    def _step(self, inputs: Inputs, cache: LayerCache | None, return_stats: bool) -> LayerOutput:
        """Observe, choose an action, run and learn."""
        is_learner = self.refiner is not None and not self._has_batch_controller
        if is_learner and not self._is_greedy and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "gradient checkpointing repeats this pass, and the refiner would learn twice: "
                "checkpoint layer.forward_with_action(x, action) with action = "
                "layer.select_actions(x), then call layer.update_controller(layer_output, action)"
            )
        observed = self._observe(inputs.x, inputs.lengths, cache)
        action = self._select_actions(observed, cache)
        fraction = None if action is None else self._span_fraction(action, inputs.x)
        layer_output = self._run(self._prepare(inputs, observed, cache), fraction, return_stats)
        if action is not None and (self.training or self._learns_in_eval):
            self.update_controller(layer_output, action)
        return layer_output

    def select_actions(
        self, x: Tensor, *, lengths: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor | None:
        """Ask the refiner for the actions of the coming pass, with arguments as in `step`.

        This copies to the host, except with a `BatchController`.

        Returns:
            Actions, integers of shape (batch,); None without a refiner.

        Raises:
            ValueError: A shape or type is wrong, or the refiner chose an invalid action.
        """
        inputs = Inputs(x, lengths=lengths).validated(self.ctx, self.dims, self.head)
        return self._select_actions(self._observe(inputs.x, inputs.lengths, cache), cache)

    def update_controller(self, layer_output: LayerOutput, action: Tensor) -> None:
        """Let the refiner learn from a pass under its actions; copies to the host.

        `forward` and `step` call this in train mode. A `BatchController` never learns.

        Args:
            layer_output: Output of the pass.
            action: Actions of `select_actions`, integers of shape (batch,).
        """
        if self.refiner is None or self._has_batch_controller:
            return
        refiner = cast(SpanController, self.refiner)
        rewards = layer_output.reward.tolist()
        for state, each, reward, next_state in zip(
            layer_output.state, action.tolist(), rewards, layer_output.next_state, strict=True
        ):
            refiner.update(state, each, reward, next_state)

    def _select_actions(self, observed: ControllerInput, cache: LayerCache | None) -> Tensor | None:
        """Actions of the controller, integers of shape (batch,); None without one."""
        if self.refiner is None:
            return None
        if self._has_batch_controller:
            controller = cast(BatchController, self.refiner)
            return controller.actions(self._controller_obs(controller, observed, cache))
        return self._choose_actions(observed.obs_features)

    def _choose_actions(self, features: Tensor) -> Tensor:
        """Actions of a `SpanController` in the states of features, shape (batch, 2 * dims)."""
        if torch.compiler.is_exporting():
            raise RuntimeError(
                "torch.export cannot record a refiner, which reads states on the host: export the "
                "agent (spangym.agents.export_policy) and assign the result to layer.refiner"
            )
        name = "greedy_action" if self._is_greedy else "choose_action"
        choose = getattr(self.refiner, name)
        states = self._output_class.state_ids(features, self._num_states)
        chosen = [choose(state) for state in states]
        try:
            # Integers of any library, zero-dimensional arrays included.
            actions = [operator.index(action) for action in chosen]
        except TypeError:
            actions = [-1]
        highest = self.num_actions - 1
        if not all(0 <= action <= highest for action in actions):
            raise ValueError(f"refiner must choose actions in 0..{highest}, chose {chosen}")
        return torch.tensor(actions, device=features.device)

    def _check_decoding_cache(
        self, x: Tensor, cache: DecodingCache | None, action: Tensor | int | None
    ) -> None:
        super()._check_decoding_cache(x, cache, action)
        is_controlled = action is None and self.refiner is not None
        if cache is not None and is_controlled != (cache.decisions is not None):
            raise ValueError(
                "actions are given for a whole text or for none of it: start without a cache"
            )

    def _decode_local(
        self, local_input: Tensor, cache: DecodingCache, fraction: Tensor | None
    ) -> Tensor:
        if fraction is not None or self.refiner is None:
            return super()._decode_local(local_input, cache, fraction)
        if cache.decisions is None:
            cache.decisions = WindowDecisions.initial(local_input, self.config.win_size)
        outputs, rest = [], local_input
        while rest.shape[1]:
            self._decide(cache, rest[:, :1])
            # The next token at which a window begins, in any of the sequences.
            tokens = min(cache.decisions.ends) - cache.num_tokens
            tokens_of_windows, rest = rest[:, :tokens], rest[:, tokens:]
            cache.decisions.inputs.append(tokens_of_windows)
            fraction = self._span_fraction(cache.decisions.actions, local_input)
            outputs.append(super()._decode_local(tokens_of_windows, cache, fraction))
        return torch.cat(outputs, dim=1)

    def _decide(self, cache: DecodingCache, first: Tensor) -> None:
        """Choose the actions of the windows that begin at the next token.

        ``first`` is the normalized input of that token, shape (batch, 1, dims), which the first
        windows of a text observe.
        """
        decisions, position = cache.decisions, cache.num_tokens
        assert decisions is not None
        beginning = [index for index, end in enumerate(decisions.ends) if end == position]
        if not beginning:
            return
        lengths = [decisions.windows[index] for index in beginning]
        seen = {each: decisions.inputs.last(each) if each else first for each in {*lengths}}
        observed = [seen[each][[index]] for index, each in zip(beginning, lengths, strict=True)]
        moments = [token_moments(each) for each in observed]
        if self._has_batch_controller:
            controller = cast(BatchController, self.refiner)
            pairs = zip(moments, observed, strict=True)
            actions = torch.cat([controller.actions(controller.observe(*each)) for each in pairs])
        else:
            actions = self._choose_actions(torch.cat(moments))
        decisions.actions[beginning] = actions.to(decisions.actions)
        fraction = self._span_fraction(decisions.actions, first)
        spans = self.attn_local.spans(self._span_scale(cache.predicted_scale, fraction))
        decisions.windows = spans.window.tolist()
        for index in beginning:
            decisions.ends[index] = position + decisions.windows[index]

    def _controller_obs(
        self, controller: BatchController, observed: ControllerInput, cache: LayerCache | None
    ) -> Tensor:
        local_input = observed.local_input.detach()
        if controller.observation_time == "current":
            return controller.observe(observed.moments, local_input, observed.lengths)
        if cache is not None and cache.controller_obs is not None:
            return cache.controller_obs
        # At the start of a stream: the first token, which every token may depend on.
        first = local_input[:, :1]
        return controller.observe(token_moments(first), first)

    def _controller_obs_for_cache(self, observed: ControllerInput) -> Tensor | None:
        controller = cast(BatchController, self.refiner)
        if not self._has_batch_controller or controller.observation_time == "current":
            return None
        return controller.observe(observed.moments, observed.local_input.detach(), observed.lengths)

    @property
    def _is_greedy(self) -> bool:
        """Whether the refiner is asked for its greedy action, which changes nothing."""
        in_eval = not self.training and not self._learns_in_eval
        return in_eval and hasattr(self.refiner, "greedy_action")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "refiner":
            _check_refiner(value)
            is_batch_controller = isinstance(value, BatchController)
            if is_batch_controller:
                value.check(self.dims, self.config.action_scale)
            self._num_actions, self._num_states = num_actions_of(value), num_states_of(value)
            self._has_batch_controller = is_batch_controller
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

    def _load_from_state_dict(  # type: ignore[override]
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        *lists: list[str],
    ) -> None:
        start = f"{prefix}refiner."
        names = [name for name in state_dict if name.startswith(start)]
        error_msgs = lists[-1]
        extra_state = state_dict.get(f"{start}_extra_state")
        if self.refiner is None and extra_state is not None:
            try:
                self.refiner = ExportedPolicy.from_extra_state(extra_state)
                # PyTorch then loads its buffers, as those of any child.
                if not self.ln_a.weight.is_meta:
                    self.refiner.to(self.ln_a.weight.device)
            except ValueError as error:
                for name in names:
                    del state_dict[name]
                error_msgs.append(f"the controller {start}* cannot be made: {error}")
        elif self.refiner is None and names and strict:
            for name in names:
                del state_dict[name]
            error_msgs.append(
                f"{start}* is the state of a controller, and the layer has none: assign "
                "layer.refiner before load_state_dict"
            )
        elif _has_state_dict(self.refiner):
            stored = {name.removeprefix(start): state_dict.pop(name) for name in names}
            if extra_state is not None:
                error_msgs.append(
                    f"{start}* is the state of an exported controller, and the layer has a "
                    f"{type(self.refiner).__name__}: assign layer.refiner = None first"
                )
            elif stored:
                try:
                    self.refiner.load_state_dict(stored)
                except (KeyError, ValueError) as error:
                    error_msgs.append(f"the refiner cannot load its stored state: {error}")
            elif strict:
                missing_keys.append(f"{start}*")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, *lists
        )


class OriginalIntegratedAttention(OriginalDefects, IntegratedAttention):
    """`IntegratedAttention` with the original's defects, made by `IntegratedAttention.original`."""


IntegratedAttention.original_class = OriginalIntegratedAttention


def _check_refiner(refiner: object) -> None:
    if isinstance(refiner, type):
        raise TypeError(f"refiner is the class {refiner.__name__}; pass an instance of it")
    if refiner is not None and not isinstance(refiner, SpanController | BatchController):
        raise TypeError(
            "refiner must have the methods choose_action(state) and update(state, action, reward, "
            f"next_state); {type(refiner).__name__} does not"
        )


def _has_state_dict(refiner: object) -> TypeGuard[StatefulController]:
    """Whether the layer stores the refiner's state; torch itself stores that of modules."""
    return isinstance(refiner, StatefulController) and not isinstance(refiner, nn.Module)
