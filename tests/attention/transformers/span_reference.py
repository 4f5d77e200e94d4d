"""An independent model of span control: attention with explicit 4-D masks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.attention.transformers.tiny_models import Architecture

NAME = "span_reference"


@dataclass
class _Control:
    """What one self-attention module does.

    Attributes:
        spans: Span of each sequence, shape (batch,) or (1,).
        sinks: Number of first unpadded keys that stay visible.
        is_causal: Whether a query sees no later key.
        qk_pairs: Query-key pairs seen by unpadded queries in all calls, shape (batch,).
    """

    spans: Tensor
    sinks: int
    is_causal: bool
    qk_pairs: Tensor | int = 0


def reference_model(
    architecture: Architecture, model: Any, spans: Mapping[str, Any] | int | Tensor, sinks: int = 4
) -> Any:
    """A copy of a model in which each self-attention module has spans, by name or for all.

    A span is a number of tokens or a tensor (batch,). Modules that a mapping does not name see
    everything.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model = copy.deepcopy(model)
    model.set_attn_implementation(NAME)
    for name, module in architecture.self_attention(model).items():
        span = spans if not isinstance(spans, Mapping) else spans.get(name, 2**31 - 1)
        module.span_reference = _Control(
            torch.as_tensor(span).reshape(-1), sinks, architecture.is_causal(name)
        )
    return model


def reference_qk_pairs(model: Any) -> Tensor:
    """Query-key pairs seen by unpadded queries in all calls so far, int64 (batch,)."""
    controls = (getattr(each, NAME, None) for each in model.modules())
    return torch.stack([each.qk_pairs for each in controls if each is not None]).sum(0)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    key, value = (
        each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value)
    )
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    visible = torch.ones_like(scores[:, :1], dtype=torch.bool)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        visible = (attention_mask == 0).expand_as(visible)
    control: _Control | None = getattr(module, NAME, None)
    if control is not None:
        visible = _apply_control(control, visible)
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def _apply_control(control: _Control, visible: Tensor) -> Tensor:
    """Intersect what the model sees, boolean (batch, 1, queries, keys), with the span."""
    queries, keys = visible.shape[-2:]
    key = torch.arange(keys)
    query = (key[-queries:])[:, None]
    if control.is_causal:
        visible = visible & (key <= query)
    unpadded = visible.any(-2)  # (batch, 1, keys)
    is_sink = unpadded & (unpadded.cumsum(-1) <= control.sinks)
    near = (query - key).abs() < control.spans[:, None, None, None]
    visible = visible & (near | is_sink[..., None, :])
    own = unpadded[..., -queries:, None]
    control.qk_pairs = control.qk_pairs + (visible & own).sum((-3, -2, -1))
    return visible
