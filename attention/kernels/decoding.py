"""Attention of the newest tokens of a sequence over the keys that a cache holds."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.kernels.reference import to_additive_mask
from spangym.attention.kernels.refinement import refine_masked


def attend_to_cache(
    inputs: KernelInputs, queries: Tensor, keys: Tensor, first_window: Tensor
) -> Tensor:
    """Causal attention of every query over its interval; every query is scored with every key.

    Args:
        inputs: Inputs of the kernel, without a mask; keys are in any order.
        queries: Position of each query in the sequence, shape (queries,), int64.
        keys: Position of each key, shape (keys,), int64.
        first_window: Position of the first window of each sequence, shape (batch,), int64.

    Returns:
        Shape (batch, heads, queries, head size); 0 where the span is 0.
    """
    bias = _bias(inputs, queries, keys, first_window)
    key, value = inputs.k, inputs.v

    def attend_once(q: Tensor, active: Tensor) -> tuple[Tensor, None]:
        del active
        attend = nn.functional.scaled_dot_product_attention
        return attend(q, key, value, attn_mask=bias), None

    everything = dataclasses.replace(inputs, spans=SpanGeometry.full(inputs.spans, len(keys)))
    # An accelerator would wait for each pass.
    out = refine_masked(attend_once, everything, inputs.q.device.type == "cpu").output
    return torch.where(inputs.spans.span[:, None, None, None] > 0, out, 0)


def _bias(inputs: KernelInputs, queries: Tensor, keys: Tensor, first_window: Tensor) -> Tensor:
    """Interval and soft edge as a bias of the scores, shape (batch, 1, queries, keys)."""
    spans, dtype = inputs.spans, inputs.q.dtype
    window = spans.window[:, None]
    start = queries - (queries - first_window[:, None]).remainder(window)
    # A sequence that is off sees itself, so that its weights are numbers.
    first = start + window - spans.span.clamp_min(1)[:, None] - spans.soft_margin
    visible = (keys >= first[..., None]) & (keys <= queries[:, None])
    if spans.edge is None:
        return to_additive_mask(visible, dtype)[:, None]
    relative = keys - start[..., None]
    bias = spans.edge.log_mask(relative, window[..., None], spans.edge.span[:, None, None])
    return bias.to(dtype).masked_fill(~visible, -torch.inf)[:, None]
