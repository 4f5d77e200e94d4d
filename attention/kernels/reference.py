"""The reference kernel for any device, with a dense mask; tests compare the others with it."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.refinement import refine_masked


def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval."""
    bias = score_bias(inputs.q, inputs.k, inputs.spans, inputs.mask)

    def attend_once(q: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        active_bias = bias.masked_fill(~active[:, None, :, None], -torch.inf)
        return softmax_attention(q, inputs.k, inputs.v, active_bias)

    return refine_masked(attend_once, inputs)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp from explicit scores; gradients flow through every argument.

    The bias is added to the scores, broadcastable to (batch, heads, queries, keys). A query without
    visible keys gets 0.
    """
    scores, blind = _scores(q, k, bias)
    precise = torch.promote_types(q.dtype, torch.float32)
    lse = scores.to(precise).logsumexp(-1).masked_fill(blind[..., 0], 0.0)
    return (scores.softmax(-1).to(v.dtype) @ v).masked_fill(blind, 0.0), lse


def attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Weights, (batch, heads, queries, keys); 0 for a query without visible keys."""
    scores, blind = _scores(q, k, bias)
    return scores.softmax(-1).masked_fill(blind, 0.0)


def score_bias(
    q: Tensor, k: Tensor, spans: SpanGeometry, mask: Tensor | None, rows: slice = slice(None)
) -> Tensor:
    """Interval, soft edge and mask as a bias of the scores of some rows of the queries."""
    queries, keys = q.shape[-2], k.shape[-2]
    first, end = (each[:, rows, None] for each in spans.intervals(queries, keys))
    position = torch.arange(keys, device=q.device)
    visible = (position >= first) & (position < end)
    bias = q.new_zeros(visible.shape)
    if spans.edge is not None:
        key = position - spans.window_starts(queries)[:, rows, None]
        window, span = (each[:, None, None] for each in (spans.window, spans.edge.span))
        bias = spans.edge.log_mask(key, window, span).to(q.dtype)
    bias = bias.masked_fill(~visible, -torch.inf)[:, None]
    if mask is None:
        return bias
    if mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return bias + to_additive_mask(mask, q.dtype)


def to_additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a boolean mask (True: attend) to an additive one; keep additive masks."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros((), dtype=dtype, device=mask.device).where(mask, -torch.inf)


def _scores(q: Tensor, k: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, and which queries have no visible key."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + bias
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    # Rows of -inf would make the softmax and its gradient NaN.
    return scores.masked_fill(blind, 0.0), blind
