"""Stacks whose actions stand for spans in tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from spangym.attention import LayerOutput, SpanConfig
from spangym.attention.features import token_moments
from spangym.attention.layers.local_global import ControllerInput
from spangym.attention.transformers.span_choosers import FULL_SPAN, Span, parse_spans
from spangym.envs.model.stack import LayerStack
from spangym.envs.state import Prepared


class LayerGroup(nn.Module):
    """Consecutive layers of a model, which share one span.

    Args:
        layers: The layers.
        dims: Width of the model.
        config: Geometry of the spans.

    Attributes:
        ln_a: Normalization of the input before its features are computed, without parameters.
    """

    single_span_per_batch = False

    def __init__(self, layers: Sequence[nn.Module], dims: int, config: SpanConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.ln_a = nn.LayerNorm(dims, elementwise_affine=False)
        self.config = config


class ChosenSpanStack(LayerStack):
    """A stack of groups of a model's layers, whose actions stand for spans in tokens.

    Args:
        groups: Groups of layers.
        model: The model.
        spans: Span of each action, in tokens, or ``full``, in ascending order.
    """

    native_layers = False

    def __init__(
        self, groups: Sequence[LayerGroup], model: nn.Module, spans: Sequence[Span]
    ) -> None:
        super().__init__(groups, model)
        choices = torch.tensor(parse_spans(spans), device=self.device)
        self.register_buffer("spans", choices, persistent=False)

    def group(self, index: int) -> LayerGroup:
        """Return one group."""
        return cast(LayerGroup, self.layers[index])

    def run_prepared(
        self,
        index: int,
        prepared: Prepared,
        actions: Tensor | None = None,
        *,
        num_actions: int | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the rest of a layer at the spans of the actions; see `LayerStack.run_layer`.

        Raises:
            ValueError: There are no actions, or statistics are asked for.
        """
        del num_actions
        if actions is None or return_stats:
            raise ValueError("these layers have no span predictors, and give no statistics")
        return self._run(index, prepared, cast(Tensor, self.spans)[actions])

    def run_full_span(self, index: int, prepared: Prepared, num_actions: int) -> LayerOutput:
        """See `LayerStack.run_full_span`; no action needs to mean it."""
        del num_actions
        local_input = prepared.observed.local_input
        spans = torch.full(local_input.shape[:1], FULL_SPAN, device=local_input.device)
        return self._run(index, prepared, spans)

    @abstractmethod
    def _run(self, index: int, prepared: Any, spans: Tensor) -> LayerOutput:
        """Run the rest of a layer at spans in tokens, int64 of shape (batch,)."""


def observe_input(local_input: Tensor) -> ControllerInput:
    """Compute the features of a normalized input, shape (batch, tokens, dims)."""
    moments = token_moments(local_input)
    return ControllerInput(local_input, moments, moments, None)
