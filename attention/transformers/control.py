"""Span control of any pretrained Transformers model, as a context manager."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spangym.attention.transformers.attention_modules import (
    ATTRIBUTE,
    PreHook,
    attention_implementation,
    find_attention_modules,
    layer_name,
    select_modules,
    unwrap_model,
)
from spangym.attention.transformers.cache_control import CacheControl, CacheMode
from spangym.attention.transformers.layer_control import GroupControl, LayerControl
from spangym.attention.transformers.sliding_plans import SlidingPlans
from spangym.attention.transformers.span_choosers import Controller, Span, make_choosers
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import as_int, as_str
from spangym.utils.suggestions import did_you_mean

Observe = Literal["input", "embeddings"]


def control(
    model: nn.Module,
    controller: Controller = "full",
    *,
    sinks: int = 4,
    groups: int = 1,
    where: str = "all",
    observe: Observe = "input",
    spans: Sequence[Span] | None = None,
    cache: CacheMode = "read",
    interval: int = 64,
    example: Mapping[str, Any] | None = None,
) -> SpanControl:
    """Control the spans of a pretrained model's self-attention.

    A query at position ``q`` sees a key at ``k`` if the model itself lets it, and if ``|q - k|`` is
    less than the span or the key is one of the sinks. At full span the model computes what it
    computes without control. The controller decides for each sequence and each group of layers,
    when the first layer of the group is called: once in a pass without past keys, and then every
    ``interval`` tokens while the model decodes.

    Args:
        model: A model of ``transformers>=5`` that calls registered attention functions, or a
            wrapper of one, for example PEFT's.
        controller: A span in tokens; ``"full"``; a function of features, float32 of shape (batch,
            2 * dims + 9), and of the index of the group, which returns a span, or int64 of shape
            (batch,); an agent (`spangym.attention.load_controller`, a Refiner), which does not
            learn here; the path of an exported agent; or a list of one for each group.
        sinks: Number of first unpadded keys of a sequence that every query sees.
        groups: Number of groups of consecutive layers with a decision of their own.
        where: ``all`` self-attention, ``encoder_self``, ``decoder_self``, or a glob over the names
            of the attention modules, such as ``model.layers.[0-9].self_attn``.
        observe: What controllers observe: the ``input`` of the group's first layer, before its
            norms, or the ``embeddings``, the input of the first layer of the first group.
        spans: Spans that the actions of an agent stand for; None for those of an exported agent,
            or 16, 32, 64, 128, 256 and full.
        cache: What happens to the keys of a cache outside the span: ``read``: they are kept, and
            a later decision may reach back to them; ``trim``: they are dropped after the pass, and
            the memory is freed.
        interval: Tokens that are decoded between two decisions, which observe these tokens.
        example: Keyword inputs of the model for the pass that finds its attention modules; made
            from its configuration if None.

    Returns:
        A context manager. On exit, and on any error, the model is as it was.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is invalid, the model calls no registered attention function, it is
            under control already, or a controller does not fit the model.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64,
        ...     num_hidden_layers=2, num_attention_heads=4)
        >>> model = LlamaForCausalLM(config).eval()
        >>> with control(model, 8, sinks=2) as handle:
        ...     output = model(torch.arange(32)[None])
        >>> handle.spans.tolist(), int(handle.qk_pairs), int(handle.full_qk_pairs)
        ([[8]], 550, 1056)
    """
    return SpanControl(
        model,
        controller,
        sinks=sinks,
        groups=groups,
        where=where,
        observe=observe,
        spans=spans,
        cache=cache,
        interval=interval,
        example=example,
    )


class SpanControl:
    """The context manager of `control`, and what happened in the last pass of the model.

    Attributes:
        modules: Names of the controlled attention modules, one list for each group.
    """

    __repr__ = readable_repr

    modules: list[list[str]]

    def __init__(
        self,
        model: nn.Module,
        controller: Controller,
        *,
        sinks: int,
        groups: int,
        where: str,
        observe: Observe,
        spans: Sequence[Span] | None,
        cache: CacheMode,
        interval: int,
        example: Mapping[str, Any] | None,
    ) -> None:
        self._model = unwrap_model(model)
        _check_choice("observe", observe, get_args(Observe))
        _check_choice("cache", cache, get_args(CacheMode))
        self.sinks = as_int("sinks", sinks, 0)
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and self.sinks >= context:
            raise ValueError(
                f"sinks must be less than the model's {context} positions, got {sinks}"
            )
        num_groups = as_int("groups", groups, 1)
        choosers = make_choosers(controller, num_groups, spans)
        self._refuse_controlled(self._model.modules())
        found = find_attention_modules(self._model, example)
        chosen = select_modules(self._model, found, as_str("where", where))
        if num_groups > len(chosen):
            raise ValueError(
                f"groups must be at most {len(chosen)}, the number of attention modules, got "
                f"{num_groups}"
            )
        self._plans = SlidingPlans(self.sinks)
        caching = CacheControl(cache, as_int("interval", interval, 1), self.sinks)
        self._groups: list[GroupControl] = []
        for chooser, members in zip(
            choosers, np.array_split(np.arange(len(chosen)), num_groups), strict=True
        ):
            group = GroupControl(
                len(self._groups), chooser, [chosen[i] for i in members], self._plans, caching
            )
            self._groups.append(group)
            width = getattr(group.members[0].owner.config, "hidden_size", None)
            if width is not None:
                chooser.check(width)
            if observe == "embeddings":
                group.observed = self._groups[0]
        self.modules = [[each.name for each in group.members] for group in self._groups]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        modules = [each for group in self._groups for each in group.members]
        self._refuse_controlled(each.module for each in modules)
        with contextlib.ExitStack() as stack:
            stack.enter_context(attention_implementation(self._model))
            for group in self._groups:
                group.reset()
                for attention in group.members:
                    module = attention.module
                    setattr(module, ATTRIBUTE, group.add_layer())
                    stack.callback(module.__dict__.pop, ATTRIBUTE)
                    _add_hook(stack, module, group.before_attention)
                layers = {layer_name(self._model, each.name) for each in group.members}
                for name in sorted(layers):
                    _add_hook(stack, self._model.get_submodule(name), group.before_layer)
            for owner in {id(each.owner): each.owner for each in modules}.values():
                hook = PreHook(self._before_pass(owner))
                stack.callback(owner.register_forward_pre_hook(hook).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._plans.clear()

    def _refuse_controlled(self, modules: Iterable[nn.Module]) -> None:
        if any(getattr(each, ATTRIBUTE, None) for each in modules):
            raise ValueError(
                f"{type(self._model).__name__} is under control already: leave that context first"
            )

    def _before_pass(self, owner: nn.Module) -> Any:
        groups = [
            group for group in self._groups if any(each.owner is owner for each in group.members)
        ]

        def hook(module: nn.Module, args: object) -> None:
            del module, args
            self._plans.clear()
            for group in groups:
                group.begin_pass()

        return hook

    @property
    def spans(self) -> Tensor:
        """Spans of the last pass, int64 of shape (groups, batch); `FULL_SPAN` for all keys."""
        return torch.stack([group.last_spans for group in self._groups])

    @property
    def features(self) -> list[Tensor]:
        """Features of the input of each group's last decision, float32, (batch, 2 * dims + 9)."""
        return [group.last_input.features for group in self._groups]

    @property
    def qk_pairs(self) -> Tensor:
        """Query-key pairs scored in the last pass by all controlled layers, int64 (batch,)."""
        return _total([each.qk_pairs for each in self._layers])

    @property
    def full_qk_pairs(self) -> Tensor:
        """Query-key pairs of the last pass at full span, int64 of shape (batch,)."""
        return _total([each.full_qk_pairs for each in self._layers])

    @property
    def _layers(self) -> list[LayerControl]:
        return [each for group in self._groups for each in group.layers]


def _add_hook(stack: contextlib.ExitStack, module: nn.Module, hook: Callable[..., None]) -> None:
    """Register a forward pre-hook until the stack is closed."""
    handle = module.register_forward_pre_hook(PreHook(hook), with_kwargs=True)
    stack.callback(handle.remove)


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {short_repr(value)}{hint}")


def _total(pairs: list[Tensor]) -> Tensor:
    """Sum over layers on the host; layers that were not called count none, shape (1,)."""
    counts = torch.broadcast_tensors(*(each.cpu() for each in pairs))
    return torch.stack(counts).sum(0)
