"""IntegratedAttention: a local path of sliding windows beside a global path; its span decided."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .adaptive_update import AdaptiveUpdateAttention, KeyValueCache, ProjectionModule
from .controllers import SpanController
from .metrics import features, quality, state_ids
from .predictor import Predictor
from .sliding_window import SlidingWindowAttention
from .spans import ACTIONS


@dataclass(frozen=True)
class Outcome:
    """What one pass through a layer did; tensors are on the layer's device.

    Attributes:
        output: Output of the layer, shape (lanes, tokens, dims).
        local_input: Normalised input of the local path, same shape.
        local_output: Output of the local path, same shape; zero where a lane is off.
        scale: Span scale ``m`` of each lane, shape (lanes,), in [0, 1].
        window: Window of each lane in tokens, shape (lanes,), int64.
        span: Span of each lane in tokens, shape (lanes,), int64; 0 where a lane is off.
        visited_keys: Query-key pairs that the local path scored, over all its passes, shape
            (lanes,), int64.
        focus_steps: Passes of iterative focus, shape (lanes,), int64.
    """

    output: Tensor
    local_input: Tensor
    local_output: Tensor
    scale: Tensor
    window: Tensor
    span: Tensor
    visited_keys: Tensor
    focus_steps: Tensor

    @property
    def reward(self) -> Tensor:
        """Quality of each lane's local output, shape (lanes,)."""
        return quality(self.local_output).quality

    @property
    def state(self) -> list[int]:
        """State id of each lane's normalised input; copies to the host."""
        return state_ids(features(self.local_input))

    @property
    def next_state(self) -> list[int]:
        """State id of each lane's local output, the original's bootstrap; copies to the host."""
        return state_ids(features(self.local_output))


class IntegratedAttention(nn.Module):
    """Self-attention with a local path whose span is decided for each input.

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
    of the lane's normalised input; in train mode it also learns, from the quality of the local
    output and the state id of that output (the original's bootstrap).

    Args:
        ctx: Longest sequence, in tokens.
        dims: Width of input and output; at least 4.
        head: Number of heads; divides ``dims``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law, at least 0.
        sharpen: Sharper scores for longer spans (True) or for shorter ones (False).
        refiner: Controller of the span, any `SpanController`.
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
    """

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
        sharpen: bool = True,
        refiner: SpanController | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_layer_arguments(ctx, dims, head, max_dist, win_size, max_span, temp_scale)
        self.ctx = ctx
        self.dims = dims
        self.head = head
        self.refiner = refiner
        # Modules draw weights when they are made; those are drawn anew below.
        with torch.random.fork_rng(devices=[]):
            self.span_pred = Predictor(dims)
            local_path, global_path = self._paths()
            self.attn_local = local_path(
                head,
                win_size=win_size,
                max_span=max_span,
                max_dist=max_dist,
                temp_scale=temp_scale,
                sharpen=sharpen,
            )
            self.attn_global = global_path(dims, head)
            self.projection = nn.Linear(2 * dims, dims)
            self.ln_a = nn.LayerNorm(dims)
            self.ln_b = nn.LayerNorm(dims)
        self.reset_parameters(generator)

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
        refiner: SpanController | None = None,
        generator: torch.Generator | None = None,
    ) -> IntegratedAttention:
        """The layer as it was, defects and all: see `spangym.attention.original`.

        Arguments are those of the layer.

        Raises:
            ValueError: An argument breaks its rule.
        """
        from .original import OriginalIntegratedAttention

        return OriginalIntegratedAttention(
            ctx,
            dims,
            head,
            max_dist,
            win_size,
            max_span,
            temp_scale,
            sharpen=sharpen,
            refiner=refiner,
            generator=generator,
        )

    @classmethod
    def _paths(cls) -> tuple[type[SlidingWindowAttention], type[AdaptiveUpdateAttention]]:
        """What the local and the global path are made of."""
        return SlidingWindowAttention, AdaptiveUpdateAttention

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew: N(0, 0.02) for the global projections, else torch's default.

        Args:
            generator: Source of the weights; torch's default generator if None.
        """
        projections = {m.proj for m in self.modules() if isinstance(m, ProjectionModule)}
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            if linear in projections:
                nn.init.normal_(linear.weight, std=0.02, generator=generator)
                nn.init.zeros_(linear.bias)
            else:
                bound = 1 / math.sqrt(linear.in_features)
                nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
                nn.init.uniform_(linear.bias, -bound, bound, generator=generator)

    def features(self, x: Tensor) -> Tensor:
        """Mean and population variance of the normalised input, over the tokens.

        Args:
            x: Shape (lanes, tokens, dims).

        Returns:
            Shape (lanes, 2 * dims).
        """
        return features(self.ln_a(x))

    def outcome(
        self,
        x: Tensor,
        action: Tensor | int | None = None,
        *,
        cache: KeyValueCache | None = None,
    ) -> Outcome:
        """Run the layer under a given decision and say what it did.

        Args:
            x: Shape (lanes, tokens, dims), ``tokens <= ctx``.
            action: Action of each lane, integers 0..9 of shape (lanes,), or one for all; without
                it the span scale is the predictor's.
            cache: Keys and values of the global path's last pass, replaced by this pass's.

        Returns:
            Output, spans and price.

        Raises:
            ValueError: ``x`` or ``action`` has a wrong shape, the cache another one, or the action
                is none of 0..9.
        """
        self._check_input(x)
        globe = self.attn_global(self.ln_b(x), cache)
        # The span is an integer: no gradient passes it, so none is to pass its temperature alone.
        scale = self.span_pred(globe).squeeze(-1).detach()
        if action is not None:
            share = self._check_action(action, scale) / (ACTIONS - 1)
            scale = (scale * share).clamp(0, 1)
        local_input = self.ln_a(x)
        local = self.attn_local(local_input, scale)
        return Outcome(
            output=self.projection(torch.cat([local.output, globe], dim=-1)),
            local_input=local_input,
            local_output=local.output,
            scale=scale,
            window=local.spans.window,
            span=local.spans.span,
            visited_keys=local.visited_keys,
            focus_steps=local.focus_steps,
        )

    def forward(self, x: Tensor, *, cache: KeyValueCache | None = None) -> Tensor:
        """Run the layer, its span chosen by ``refiner`` or else by the predictor alone.

        Args:
            x: Shape (lanes, tokens, dims), ``tokens <= ctx``.
            cache: Keys and values of the global path's last pass, replaced by this pass's.

        Returns:
            Shape (lanes, tokens, dims).

        Raises:
            ValueError: ``x`` has a wrong shape, or the cache another one, or the refiner chose what
                is no action.
        """
        if self.refiner is None:
            return self.outcome(x, cache=cache).output
        self._check_input(x)
        states = state_ids(self.features(x))
        actions = [self.refiner.choose_action(state) for state in states]
        if not set(actions) <= set(range(ACTIONS)):
            raise ValueError(f"refiner must choose actions in 0..{ACTIONS - 1}, chose {actions}")
        outcome = self.outcome(x, torch.tensor(actions, device=x.device), cache=cache)
        if self._learns:
            rewards = outcome.reward.tolist()
            for decision in zip(states, actions, rewards, outcome.next_state, strict=True):
                self.refiner.update(*decision)
        return outcome.output

    def _check_action(self, action: Tensor | int, scale: Tensor) -> Tensor:
        """The action as a number of the scale's type; a tensor's values are not looked at."""
        if not isinstance(action, Tensor) and action not in range(ACTIONS):
            raise ValueError(f"action must be an integer in 0..{ACTIONS - 1}, got {action!r}")
        actions = torch.as_tensor(action, dtype=scale.dtype, device=scale.device)
        if actions.shape not in ((), (1,), scale.shape):
            raise ValueError(
                f"action has shape {tuple(actions.shape)}; it must be one number or one for each "
                f"of the {len(scale)} lanes"
            )
        return actions

    @property
    def _learns(self) -> bool:
        """Whether the refiner learns from this pass."""
        return self.training

    def _check_input(self, x: Tensor) -> None:
        if (
            x.ndim != 3
            or len(x) == 0
            or x.shape[-1] != self.dims
            or not 1 <= x.shape[1] <= self.ctx
        ):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (lanes, tokens, {self.dims}) with "
                f"1 to {self.ctx} tokens"
            )


def check_layer_arguments(
    ctx: int,
    dims: int,
    head: int,
    max_dist: int,
    win_size: int,
    max_span: int,
    temp_scale: float,
) -> None:
    """Refuse arguments of `IntegratedAttention` that break a rule.

    Raises:
        ValueError: An argument breaks its rule; the message names both.
    """
    rules = [
        (ctx >= 1, f"ctx must be at least 1, got {ctx}"),
        (dims >= 4, f"dims must be at least 4, got {dims}"),
        (head >= 1, f"head must be at least 1, got {head}"),
        (head < 1 or dims % head == 0, f"head must divide dims, got head={head}, dims={dims}"),
        (win_size >= 1, f"win_size must be at least 1, got {win_size}"),
        (
            max_span >= win_size,
            f"max_span must be at least win_size, got max_span={max_span}, win_size={win_size}",
        ),
        (
            max_dist >= win_size,
            f"max_dist must be at least win_size, got max_dist={max_dist}, win_size={win_size}",
        ),
        (
            0 <= temp_scale < math.inf,
            f"temp_scale must be at least 0 and finite, got {temp_scale}",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
