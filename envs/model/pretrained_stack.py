"""A pretrained model of Transformers as a stack: its layers are groups of the model's layers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from spangym.attention import LayerCache, LayerOutput
from spangym.attention.layers.local_global import ControllerInput
from spangym.attention.transformers.attention_modules import layer_name
from spangym.attention.transformers.control import control
from spangym.attention.transformers.span_choosers import (
    DEFAULT_SPANS,
    GroupInput,
    Span,
    SpanChooser,
)
from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.model.chosen_spans import ChosenSpanStack, LayerGroup, observe_input
from spangym.envs.model.pretrained_sizes import group_span_config
from spangym.envs.state import Cache, Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PreparedGroup:
    """The part of a group's pass that does not depend on its span.

    Attributes:
        hidden: Input of the group, shape (batch, tokens, dims).
        observed: Layer-normalized input, without learned parameters, and its features.
        full_span: Output of the group at full span, shape (batch, tokens, dims), and its query-key
            pairs, int64 of shape (batch,); None where they are not known.
    """

    hidden: Tensor
    observed: ControllerInput
    full_span: tuple[Tensor, Tensor] | None = None


class PretrainedModelStack(ChosenSpanStack):
    """A pretrained model, in evaluation mode, at the spans that actions stand for."""

    is_batch_invariant = False

    def count_bytes(self, token_bytes: Tensor) -> None:
        """Let the loss be in bits a byte.

        Args:
            token_bytes: Bytes of each token, int64 of shape (vocabulary,).
        """
        self.num_classes = len(token_bytes)
        self.register_buffer("token_bytes", token_bytes.to(self.device), persistent=False)

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return cast(Any, self.frontend)


class _GivenSpans(SpanChooser):
    """Spans that are set before a pass.

    Attributes:
        spans: Spans in tokens, int64 of shape (batch,).
    """

    needs_input = False
    spans: Tensor

    def choose(self, group_input: GroupInput, group: int) -> Tensor:
        """Return the spans."""
        del group_input, group
        return self.spans


class PretrainedStack(PretrainedModelStack):
    """A pretrained model that runs group by group of its layers; each group has its own span.

    Some layers run by a call of the whole model in which all others pass their input on, so that
    everything around the layers is the model's own. Groups are consecutive layers, as equal in
    number as possible. The model is as it was after each pass; no other thread may call it during
    one.

    Args:
        model: The model, in evaluation mode.
        ctx: Tokens in a chunk.
        spans: Span of each action, in tokens, or ``full``, in ascending order.
        sinks: First keys of a chunk that every query sees.
        num_groups: Number of groups.

    Attributes:
        causal: Whether a token attends only to itself and earlier tokens.

    Raises:
        ValueError: The model cannot be controlled, is an encoder-decoder, or its layers cannot run
            one by one; or there are fewer layers than groups.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ctx: int,
        *,
        spans: Sequence[Span] = DEFAULT_SPANS,
        sinks: int = 4,
        num_groups: int = 1,
    ) -> None:
        name = type(model).__name__
        if model.config.is_encoder_decoder:
            raise ValueError(f"model {name} is an encoder-decoder: only one stack can run")
        self._given = _GivenSpans()
        self._control = control(model, [self._given], sinks=sinks)
        layers = find_layers(model, self._control.modules[0])
        if num_groups > len(layers):
            raise ValueError(
                f"groups must be at most {len(layers)}, the model's layers, got {num_groups}"
            )
        causal = _check_layers(model, layers)
        config = group_span_config(ctx, causal)
        dims = model.config.hidden_size
        parts = np.array_split(np.arange(len(layers)), num_groups)
        super().__init__(
            [LayerGroup(layers[part[0] : part[-1] + 1], dims, config) for part in parts],
            model,
            spans,
        )
        self._bounds = [(int(part[0]), int(part[-1]) + 1) for part in parts]
        self._model_layers, self.causal = layers, causal

    def embed(self, content: Tensor) -> Tensor:
        """Return the input of the first layer for tokens, int64 of shape (batch, tokens)."""
        with _layers_running(self._model_layers, 0, 0) as passed:
            _body(self.model)(input_ids=content, use_cache=False)
        return passed.first_input

    def prepare_layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        recompute_kv: Tensor | None = None,
        cache: Cache | None = None,
    ) -> PreparedGroup:
        """Normalize the input of a group, and compute its features."""
        del recompute_kv, cache
        local_input = self.group(index).ln_a(hidden)
        return PreparedGroup(hidden, observe_input(local_input))

    def keep_full_output(self, prepared: Prepared, layer_output: LayerOutput) -> PreparedGroup:
        """See `LayerStack.keep_full_output`."""
        full_span = (layer_output.output, layer_output.qk_pairs)
        return dataclasses.replace(cast(PreparedGroup, prepared), full_span=full_span)

    def _run(self, index: int, prepared: PreparedGroup, spans: Tensor) -> LayerOutput:
        tokens = prepared.hidden.shape[1]
        spans = spans.clamp_max(tokens)
        if prepared.full_span is None:
            output, pairs = self._run_group(index, prepared.hidden, spans)
        else:
            output, pairs = (each.clone() for each in prepared.full_span)
            if len(rows := (spans < tokens).nonzero()[:, 0]):
                output[rows], pairs[rows] = self._run_group(
                    index, prepared.hidden[rows], spans[rows]
                )
        ones = torch.ones_like(spans)
        return LayerOutput(
            output=output,
            local_input=prepared.observed.local_input,
            local_output=self.group(index).ln_a(output),
            span_scale=spans.float() / tokens,
            window=ones,
            span=spans,
            qk_pairs=pairs,
            num_refinement_steps=ones,
            obs_features=prepared.observed.obs_features,
            # Chunks are independent: nothing is carried over.
            cache=cast(LayerCache, None),
        )

    def _run_group(self, index: int, hidden: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a group, and query-key pairs, the mean over its layers."""
        start, stop = self._bounds[index]
        self._given.spans = spans
        with self._control, _layers_running(self._model_layers, start, stop, hidden) as passed:
            _body(self.model)(input_ids=_dummy_tokens(hidden), use_cache=False)
            pairs = self._control.qk_pairs.to(hidden.device)
        return passed.output, pairs // (stop - start)

    def outputs(self, hidden: Tensor) -> Tensor:
        """Return what the head reads: the last layer's output after the model's last norm."""
        with _layers_running(self._model_layers, 0, 0, hidden):
            found = _body(self.model)(input_ids=_dummy_tokens(hidden), use_cache=False)
        return found.last_hidden_state

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each batch element in bits a byte of its targets, shape (batch,)."""
        with _layers_running(self._model_layers, 0, 0, hidden):
            logits = self.model(input_ids=_dummy_tokens(hidden), use_cache=False).logits
        return bits_per_byte(logits, targets, cast(Tensor, self.token_bytes))


def bits_per_byte(logits: Tensor, targets: Tensor, token_bytes: Tensor) -> Tensor:
    """Return the loss of each batch element, in bits a byte of its targets, shape (batch,).

    Args:
        logits: Shape (batch, tokens, vocabulary).
        targets: Tokens, int64 of shape (batch, tokens); `NO_TARGET` where there is none.
        token_bytes: Bytes of each token, int64 of shape (vocabulary,).
    """
    flat = logits.float().flatten(0, 1)
    losses = nn.functional.cross_entropy(flat, targets.flatten(), reduction="none")
    sizes = torch.where(targets != NO_TARGET, token_bytes[targets.clamp_min(0)], 0)
    return losses.view_as(targets).sum(1) / sizes.sum(1).clamp_min(1) / math.log(2)


def find_layers(model: PreTrainedModel, modules: Sequence[str]) -> list[nn.Module]:
    """Return the layers around attention modules, of which each is the member of a module list.

    Args:
        model: The model.
        modules: Names of the attention modules.

    Raises:
        ValueError: An attention module is in no list.
    """
    layers: dict[str, nn.Module] = {}
    for name in modules:
        found = layer_name(model, name)
        if found == name:
            raise ValueError(
                f"model {type(model).__name__} has no list of layers: {name!r} is in none"
            )
        layers[found] = model.get_submodule(found)
    return [*layers.values()]


def _body(model: PreTrainedModel) -> Any:
    """Return the model without its head."""
    return model.base_model


def _dummy_tokens(hidden: Tensor) -> Tensor:
    """Tokens for a pass whose hidden states are given: only their number matters."""
    return torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)


@torch.no_grad()
def _check_layers(model: PreTrainedModel, layers: Sequence[nn.Module]) -> bool:
    """Check that the layers can run one by one, and return whether the model is causal."""
    tokens = torch.arange(5, 9, device=model.device)[None] % model.config.vocab_size
    expected = _body(model)(input_ids=tokens, use_cache=False).last_hidden_state
    dummy = torch.zeros_like(tokens)
    with _layers_running(layers, 0, 0) as passed:
        _body(model)(input_ids=tokens, use_cache=False)
    hidden = found = passed.first_input
    for index in range(len(layers)):
        with _layers_running(layers, index, index + 1, hidden) as passed:
            found = _body(model)(input_ids=dummy, use_cache=False).last_hidden_state
        hidden = passed.output
    if not torch.equal(found, expected):
        hint = "call its eval() method" if model.training else "its layers share more than that"
        raise ValueError(
            f"model {type(model).__name__} cannot run layer by layer on hidden states: {hint}"
        )
    tokens[0, -1] = tokens[0, 0]
    other = _body(model)(input_ids=tokens, use_cache=False).last_hidden_state
    return torch.equal(other[:, 0], expected[:, 0])


@dataclass
class _Passed:
    """What went through a pass of some layers.

    Attributes:
        first_input: Input of the model's first layer, shape (batch, tokens, dims).
        output: Output of the last layer that ran, shape (batch, tokens, dims).
    """

    first_input: Tensor = dataclasses.field(default_factory=Tensor)
    output: Tensor = dataclasses.field(default_factory=Tensor)


@contextlib.contextmanager
def _layers_running(
    layers: Sequence[nn.Module], start: int, stop: int, hidden: Tensor | None = None
) -> Iterator[_Passed]:
    """Let only some layers of a model run; the others pass their input on.

    Args:
        layers: All layers of the model.
        start: First layer that runs.
        stop: End of the layers that run; equal to ``start`` for none.
        hidden: Input of the first layer that runs, or output of the last layer if none does, shape
            (batch, tokens, dims); None for what the model computes.
    """
    passed = _Passed()
    given_to = start if start < stop else len(layers) - 1

    def replaced(index: int, run: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            own = args[0] if args else kwargs["hidden_states"]
            if index == 0:
                passed.first_input = own
            if index == given_to and hidden is not None:
                own = hidden
            if not start <= index < stop:
                return own
            if args:
                result = run(own, *args[1:], **kwargs)
            else:
                result = run(**{**kwargs, "hidden_states": own})
            passed.output = result if isinstance(result, Tensor) else result[0]
            return result

        return forward

    before = [vars(layer).get("forward") for layer in layers]
    try:
        for index, layer in enumerate(layers):
            vars(layer)["forward"] = replaced(index, layer.forward)
        yield passed
    finally:
        for layer, own in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if own is not None:
                vars(layer)["forward"] = own
