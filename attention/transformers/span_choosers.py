"""Spans of a group of layers, chosen by any kind of controller."""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from spangym.attention.controllers.exported import ExportedPolicy, load_controller
from spangym.attention.controllers.protocol import (
    BatchController,
    SpanController,
    num_actions_of,
    num_states_of,
)
from spangym.attention.features import autocorrelation_buckets, token_moments, tuple_hash_ids
from spangym.attention.observation_spec import LAG_BUCKETS
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import describe, plain
from spangym.utils.suggestions import did_you_mean

FULL_SPAN = 2**31 - 1
"""Span of a query that sees every key which the model itself lets it see."""

DEFAULT_SPANS = (16, 32, 64, 128, 256, "full")
"""What the actions of an agent mean, unless it says so itself."""

Span = int | Literal["full"]

SpanFunction = Callable[[Tensor, int], "Span | Tensor"]
"""Called with features, shape (batch, 2 * dims + 9), and the index of the group of layers."""

Controller = (
    Span | str | PathLike[str] | SpanFunction | BatchController | SpanController | Sequence[Any]
)


class GroupInput:
    """Input of the first layer of a group, from which its controller decides.

    Args:
        hidden: Input of the layer, shape (batch, tokens, dims).
        is_token: Which tokens are no padding, boolean (batch, tokens); all if None.

    Attributes:
        hidden: The input, detached.
    """

    __repr__ = readable_repr

    def __init__(self, hidden: Tensor, is_token: Tensor | None = None) -> None:
        self.hidden = hidden.detach()
        self._is_token = is_token

    @functools.cached_property
    def local_input(self) -> Tensor:
        """The input, normalized over ``dims`` without parameters, with padding at the end.

        float32 of shape (batch, tokens, dims).
        """
        hidden = self.hidden.float()
        if self._is_token is not None:
            order = (~self._is_token).to(torch.int8).argsort(dim=1, stable=True)
            hidden = hidden.take_along_dim(order[..., None], dim=1)
        return torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])

    @property
    def lengths(self) -> Tensor | None:
        """Number of tokens that are no padding, shape (batch,); None if all."""
        return None if self._is_token is None else self._is_token.sum(1)

    @functools.cached_property
    def moments(self) -> Tensor:
        """Means and variances over the tokens, shape (batch, 2 * dims)."""
        return token_moments(self.local_input, self.lengths)

    @functools.cached_property
    def features(self) -> Tensor:
        """Moments and lag correlations, shape (batch, 2 * dims + 9)."""
        lags = autocorrelation_buckets(self.local_input, LAG_BUCKETS, self.lengths)
        return torch.cat([self.moments, lags], dim=-1)


class SpanChooser(ABC):
    """Chooses the spans of a group of layers.

    Attributes:
        needs_input: Whether `choose` reads the input.
    """

    needs_input: bool = True

    def check(self, dims: int) -> None:
        """Refuse layers of another width: a `ValueError`."""
        del dims

    @abstractmethod
    def choose(self, group_input: GroupInput, group: int) -> Tensor:
        """Choose a span for each sequence, int64 of shape (batch,)."""


class FixedSpan(SpanChooser):
    """The same span for every input."""

    needs_input = False

    def __init__(self, span: Span) -> None:
        self.span = parse_span(span, "the span")

    def choose(self, group_input: GroupInput, group: int) -> Tensor:
        """Return the span for each sequence."""
        del group
        hidden = group_input.hidden
        return torch.full((len(hidden),), self.span, device=hidden.device)


class ChosenByFunction(SpanChooser):
    """Spans from a function of the features."""

    def __init__(self, function: SpanFunction) -> None:
        self._function = function

    def choose(self, group_input: GroupInput, group: int) -> Tensor:
        """Call the function."""
        features = group_input.features
        spans, batch = self._function(features, group), len(features)
        if not isinstance(spans, Tensor):
            spans = torch.tensor(parse_span(spans, "the controller's span"), device=features.device)
        if spans.is_floating_point() or spans.is_complex() or spans.dtype == torch.bool:
            raise TypeError(f"the controller's spans must be int64, got {spans.dtype}")
        if spans.shape not in ((), (batch,)):
            raise ValueError(
                f"the controller must return a span or spans of shape ({batch},), got shape "
                f"{tuple(spans.shape)}"
            )
        spans = spans.to(features.device, torch.int64).expand(batch)
        if spans.device.type == "cpu" and batch and int(spans.min()) < 1:
            raise ValueError(f"the controller's spans must be at least 1, got {int(spans.min())}")
        return spans


class ChosenByAgent(SpanChooser):
    """Spans that the actions of a trained agent stand for."""

    def __init__(self, agent: BatchController | SpanController, spans: Sequence[Span]) -> None:
        self._agent, self._spans = agent, parse_spans(spans)
        actions = num_actions_of(agent)
        if actions != len(self._spans):
            raise ValueError(
                f"{type(agent).__name__} has {actions} actions, spans has {len(self._spans)}: give "
                "one span for each action"
            )

    def check(self, dims: int) -> None:
        """Refuse layers of another width than the agent was trained in."""
        if isinstance(self._agent, BatchController):
            scale = getattr(self._agent, "action_scale", "absolute")
            self._agent.check(dims, scale)

    def choose(self, group_input: GroupInput, group: int) -> Tensor:
        """Observe the input, and look up the spans of the actions."""
        del group
        spans = torch.tensor(self._spans, device=group_input.local_input.device)
        agent = self._agent
        if isinstance(agent, BatchController):
            local_input, lengths = group_input.local_input, group_input.lengths
            observation = agent.observe(group_input.moments, local_input, lengths)
            return spans[agent.actions(observation)]
        # An agent that explores is asked for its best action.
        choose = getattr(agent, "greedy_action", agent.choose_action)
        states = tuple_hash_ids(group_input.moments, num_states_of(agent))
        return spans[[choose(state) for state in states]]


class LagThreshold:
    """A span function: reaches as far as the tokens are correlated with earlier ones.

    It chooses the shortest of its spans that covers every bucket of lags whose correlation is at
    least the threshold, and the longest span if none does. A baseline that does not learn.

    Args:
        threshold: Correlation in [-1, 1].
        spans: Spans to choose from, in ascending order.

    Example:
        >>> features = torch.cat([torch.zeros(1, 8), torch.tensor([[0.9] + [0.0] * 8])], dim=1)
        >>> LagThreshold(0.5)(features, 0).tolist()
        [16]
    """

    __repr__ = readable_repr

    def __init__(self, threshold: float = 0.3, spans: Sequence[Span] = DEFAULT_SPANS) -> None:
        self.threshold = threshold
        self.spans = parse_spans(spans)

    def __call__(self, features: Tensor, group: int) -> Tensor:
        """Choose the spans of a batch, int64 of shape (batch,)."""
        del group
        is_far = features[:, -LAG_BUCKETS:] >= self.threshold
        # Bucket j holds lags up to 2^j, the last one all longer lags; lag k needs a span of k + 1.
        reach = 2 ** torch.arange(LAG_BUCKETS, device=features.device) + 1
        reach[-1] = FULL_SPAN
        needed = torch.where(is_far, reach, 1).amax(1)
        spans = torch.tensor(self.spans, device=features.device)
        return spans[torch.searchsorted(spans, needed).clamp_max(len(spans) - 1)]


def make_choosers(controller: Any, groups: int, spans: Sequence[Span] | None) -> list[SpanChooser]:
    """Make the choosers of all groups.

    Args:
        controller: A span, a function, an agent, the path of an exported agent, or a list of these.
        groups: Number of groups.
        spans: Spans of the actions of agents; None for those of an exported agent, or
            `DEFAULT_SPANS`.

    Raises:
        TypeError: The controller is something else.
        ValueError: A span is not positive, a file cannot be read, or the numbers do not fit.
    """
    if spans is not None:
        spans = parse_spans(spans)
    if isinstance(controller, list | tuple):
        if len(controller) != groups:
            raise ValueError(
                f"controller lists {len(controller)} controllers, there are {groups} groups: give "
                "one for each group"
            )
        return [_make_chooser(each, group, spans) for group, each in enumerate(controller)]
    return [_make_chooser(controller, group, spans) for group in range(groups)]


def _make_chooser(controller: Any, group: int, spans: Sequence[Span] | None) -> SpanChooser:
    if isinstance(controller, SpanChooser):
        return controller
    if (isinstance(controller, str) and controller == "full") or isinstance(plain(controller), int):
        return FixedSpan(plain(controller))
    if isinstance(controller, str | PathLike):
        if not Path(controller).exists():
            hint = did_you_mean(str(controller), ["full"])
            raise FileNotFoundError(f"controller {str(controller)!r} is no file{hint}")
        controller = load_controller(Path(controller), layer=group)
    if isinstance(controller, BatchController | SpanController):
        if spans is None and isinstance(controller, ExportedPolicy):
            spans = controller.metadata.get("spans")
        return ChosenByAgent(controller, spans or DEFAULT_SPANS)
    if callable(controller):
        return ChosenByFunction(cast(SpanFunction, controller))
    raise TypeError(
        "controller must be a span, 'full', a function, an agent, the path of an exported agent, "
        f"or a list of one for each group, got {describe(controller)}"
    )


def parse_spans(spans: Sequence[Span]) -> tuple[int, ...]:
    """Parse the spans that actions stand for.

    Raises:
        TypeError: They are something else.
        ValueError: They are not ascending, not positive, or fewer than two.
    """
    if not isinstance(spans, list | tuple):
        raise TypeError(f"spans must be a list of spans, got {describe(spans)}")
    parsed = tuple(parse_span(each, "each of spans") for each in spans)
    if len(parsed) < 2 or any(a >= b for a, b in itertools.pairwise(parsed)):
        raise ValueError(f"spans must be at least two, in ascending order, got {short_repr(spans)}")
    return parsed


def parse_span(span: Any, name: str) -> int:
    """Parse a span, a positive integer or ``"full"``.

    Raises:
        TypeError: It is something else.
        ValueError: It is not positive, or another word.

    Example:
        >>> parse_span(32, "span"), parse_span("full", "span") == FULL_SPAN
        (32, True)
    """
    span = plain(span)
    if isinstance(span, str):
        if span == "full":
            return FULL_SPAN
        hint = did_you_mean(span, ["full"])
        raise ValueError(f"{name} must be a positive integer or 'full', got {span!r}{hint}")
    if isinstance(span, bool) or not isinstance(span, int):
        raise TypeError(f"{name} must be a positive integer or 'full', got {describe(span)}")
    if span < 1:
        raise ValueError(f"{name} must be at least 1 or 'full', got {span}")
    return min(span, FULL_SPAN)
