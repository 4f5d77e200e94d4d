"""Attention modules under control: the decisions of their groups, and attention within the span."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from spangym.attention.kernels.sliding_sinks import Window, attend
from spangym.attention.transformers.attention_modules import ATTRIBUTE, AttentionModule
from spangym.attention.transformers.cache_control import CacheControl, common_span
from spangym.attention.transformers.sliding_plans import SlidingPlans
from spangym.attention.transformers.span_cache import SpanCacheLayer, adopt_layer, find_cache
from spangym.attention.transformers.span_choosers import GroupInput, SpanChooser
from spangym.attention.transformers.stream_state import StreamState

Attend = Callable[..., tuple[Tensor, None]]

_NO_PASS = "no pass has run under this control: call the model first"


class GroupControl:
    """Attention modules whose spans are one decision.

    Args:
        index: Index of the group.
        chooser: Chooses the spans.
        members: The modules, in the order in which the model calls them.
        plans: What all layers share in a pass.
        caching: What happens to the keys of a cache.

    Attributes:
        observed: Group whose input is observed, by default this one.
        layers: The modules' controls.
    """

    def __init__(
        self,
        index: int,
        chooser: SpanChooser,
        members: list[AttentionModule],
        plans: SlidingPlans,
        caching: CacheControl,
    ) -> None:
        self.index, self.chooser, self.members, self.plans = index, chooser, members, plans
        self.caching = caching
        self.observed = self
        self.reset()

    def reset(self) -> None:
        """Forget all layers and decisions."""
        self.layers: list[LayerControl] = []
        self._input: GroupInput | None = None
        self._spans: Tensor | None = None
        self._hidden: Tensor | None = None
        self._is_decided = False
        self._common_span: int | Tensor | None = None
        self._owner = object()

    def add_layer(self) -> LayerControl:
        """Make the control of the next module."""
        self.layers.append(LayerControl(self, self.members[len(self.layers)].num_calls))
        return self.layers[-1]

    def begin_pass(self) -> None:
        """Begin a pass of a model that contains some of the modules."""
        self._is_decided, self._hidden, self._common_span = False, None, None

    def before_layer(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Keep the input of the first layer in a pass; a forward pre-hook of all layers."""
        del module
        if self._hidden is None:
            self._hidden = args[0] if args else kwargs["hidden_states"]

    def before_attention(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Find the cache of a layer; a forward pre-hook of all attention modules."""
        del args
        layer: LayerControl = getattr(module, ATTRIBUTE)
        cache = find_cache(kwargs)
        layer.cache = None
        if cache is not None:
            layer.cache = adopt_layer(cache, getattr(module, "layer_idx", None))
            layer.cache.is_admitted = True

    @property
    def last_spans(self) -> Tensor:
        """Spans of the last pass, int64 of shape (batch,).

        Raises:
            RuntimeError: There was no pass.
        """
        if self._spans is None:
            raise RuntimeError(_NO_PASS)
        return self._spans

    @property
    def last_input(self) -> GroupInput:
        """Input of the last decision.

        Raises:
            RuntimeError: There was no pass.
        """
        if self._input is None:
            raise RuntimeError(_NO_PASS)
        return self._input

    @property
    def common_span(self) -> int | Tensor:
        """The span of the pass if all sequences have the same, otherwise that of each."""
        if self._common_span is None:
            # Once in a pass: other devices are waited for.
            self._common_span = common_span(self.last_spans)
        return self._common_span

    def spans(self, mask: Tensor | None, queries: int, cache: SpanCacheLayer | None) -> Tensor:
        """Spans of each sequence, which the first call in a pass decides.

        Args:
            mask: The model's own mask.
            queries: Number of queries.
            cache: The cache of the layer that calls; None without one.
        """
        if self._is_decided:
            return self.last_spans
        hidden = self.observed._hidden
        assert hidden is not None
        stream = None if cache is None or cache.num_tokens == queries else cache.stream
        if cache is None or stream is None or stream.owner is not self._owner:
            is_token = None
            if mask is not None:
                is_token = self.plans.tokens(mask)[:, -hidden.shape[1] :].expand(len(hidden), -1)
            self._spans = self._decide(hidden, is_token)
            if cache is not None:
                cache.stream = StreamState(self._owner, self._spans, cache.num_tokens)
        else:
            if self.chooser.needs_input:
                stream.inputs.append(hidden.detach())
            if cache.num_tokens - stream.decided_at >= self.caching.interval:
                if self.chooser.needs_input:
                    hidden = stream.last_inputs(self.caching.interval)
                spans = self._decide(hidden, None)
                cache.stream = stream = StreamState(self._owner, spans, cache.num_tokens)
            self._spans = stream.spans
        self._is_decided = True
        return self._spans

    def _decide(self, hidden: Tensor, is_token: Tensor | None) -> Tensor:
        self.chooser.check(hidden.shape[-1])
        self._input = GroupInput(hidden, is_token)
        return self.chooser.choose(self._input, self.index)


class LayerControl:
    """An attention module under control.

    Args:
        group: The group that it belongs to.
        num_calls: Number of calls in a pass.

    Attributes:
        cache: Cache of the layer in the current pass; None without one.
        qk_pairs: Query-key pairs scored in the last pass, int64 of shape (batch,).
        full_qk_pairs: The same at full span.
    """

    def __init__(self, group: GroupControl, num_calls: int) -> None:
        self.group = group
        self.qk_pairs = self.full_qk_pairs = torch.zeros(1, dtype=torch.int64)
        self._num_calls, self._calls = num_calls, 0
        self.cache: SpanCacheLayer | None = None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Copy and pickle None: copies of a model are not under control."""
        return type(None), ()

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        dropout: float = 0.0,
        scaling: float | None = None,
        position_bias: Tensor | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention within the span; the interface is that of Transformers' attention functions."""
        plans, (batch, _, queries, _) = self.group.plans, query.shape
        cache, self.cache = self.cache, None
        spans = self.group.spans(mask, queries, cache)
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        attend_fully = functools.partial(
            sdpa_attention_forward, module, dropout=dropout, scaling=scaling, **kwargs
        )
        full_pairs = plans.full_qk_pairs(query, key, mask, causal).expand(batch)
        if cache is not None and cache.is_new:
            cache.set_first_key(plans.first_key(mask, batch))
        if cache is not None and cache.num_tokens > queries:
            pairs, output = self.group.caching.attend(
                cache, query, mask, self.group.common_span, position_bias, attend_fully
            )
        elif position_bias is not None or not _is_on_host(query):
            visible = plans.visible(query, key, mask, spans, causal)
            pairs = plans.count_pairs(visible[:, 0].sum(-1), mask).expand(batch)
            if mask is not None and mask.dtype != torch.bool:
                visible = mask.masked_fill(~visible, -torch.inf)
            bias = {} if position_bias is None else {"position_bias": position_bias}
            output = attend_fully(query, key, value, visible, **bias)[0]
        else:
            windows = plans.windows(spans, mask, causal, queries, key.shape[2])
            if [*windows] == [None]:
                pairs = full_pairs
                output = attend_fully(query, key, value, mask, is_causal=is_causal)[0]
            else:
                pairs, output = self._attend_windows(
                    windows, (query, key, value), mask, full_pairs, attend_fully, dropout, scaling
                )
        if cache is not None:
            self.group.caching.after_attention(cache, self.group.common_span)
        self._count(pairs, full_pairs)
        return output, None

    def _count(self, pairs: Tensor, full_pairs: Tensor) -> None:
        """Add up the calls of a pass; activation checkpoints repeat a pass."""
        if self._calls:
            pairs, full_pairs = self.qk_pairs + pairs, self.full_qk_pairs + full_pairs
        self.qk_pairs, self.full_qk_pairs = pairs, full_pairs
        # A number that does not grow, since a compiled model depends on it.
        self._calls = (self._calls + 1) % self._num_calls

    def _attend_windows(
        self,
        windows: Mapping[Window | None, list[int]],
        tensors: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        full_pairs: Tensor,
        attend_fully: Attend,
        dropout: float,
        scaling: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Query-key pairs and output of sequences, those with equal windows at once."""
        pairs, outputs = torch.empty_like(full_pairs), []
        batch = len(full_pairs)
        for window, rows in windows.items():
            is_all = len(rows) == batch
            query, key, value = (each if is_all else each[rows] for each in tensors)
            own_mask = mask if mask is None or is_all or len(mask) == 1 else mask[rows]
            if window is None:
                pairs[rows] = full_pairs[rows]
                outputs.append(attend_fully(query, key, value, own_mask)[0])
                continue
            plan = self.group.plans.plan(query, key, window, own_mask, mask, tuple(rows))
            pairs[rows] = self.group.plans.count_pairs(plan.seen_keys, mask, rows)
            output = attend(query, key, value, plan, scale=scaling, dropout=dropout)
            outputs.append(output.transpose(1, 2))
        order = torch.tensor([row for rows in windows.values() for row in rows]).argsort()
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)[order]
        return pairs, output.contiguous()


def _is_on_host(x: Tensor) -> bool:
    """Whether spans can be read without waiting for a device, or breaking a compiled graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
