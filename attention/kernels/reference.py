"""The plain kernel, on any device: a dense mask. What the other kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.refinement import KernelOutput, refine_masked


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: SpanGeometry,
    *,
    mask: Tensor | None = None,
    steps: int = 1,
    inverse_temperature: Tensor | None = None,
    return_lse: bool = False,  # noqa: ARG001  (they are at hand)
) -> KernelOutput:
    """Attention of every query over its interval, as `spangym.attention.kernels.Kernel` says."""
    bias = score_bias(q, k, spans, mask)

    def once(q: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        return softmax_attention(q, k, v, bias.masked_fill(~active[:, None, :, None], -torch.inf))

    return refine_masked(once, q, spans, k.shape[-2], steps, inverse_temperature)


def attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """The weights themselves.

    Args:
        q: Queries, shape (batch, heads, queries, head size).
        k: Keys, shape (batch, heads, keys, head size).
        bias: Added to the scores, broadcastable to (batch, heads, queries, keys).

    Returns:
        Shape (batch, heads, queries, keys); 0 where nothing is seen.
    """
    scores, blind = _scores(q, k, bias)
    return scores.softmax(-1).masked_fill(blind, 0.0)


def score_bias(
    q: Tensor, k: Tensor, spans: SpanGeometry, mask: Tensor | None, rows: slice = slice(None)
) -> Tensor:
    """What is added to the scores of some queries, broadcastable to (batch, heads, rows, keys)."""
    queries, keys = q.shape[-2], k.shape[-2]
    first, end = spans.intervals(queries, keys)
    position = torch.arange(keys, device=q.device)
    visible = (position >= first[:, rows, None]) & (position < end[:, rows, None])
    edge = spans.log_masks(queries, keys, rows)
    bias = q.new_zeros(visible.shape) if edge is None else edge.to(q.dtype)
    bias = bias.masked_fill(~visible, -torch.inf)[:, None]
    if mask is None:
        return bias
    if mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return bias + to_additive_mask(mask, q.dtype)


def to_additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask (True: may be seen) as what is added to scores; an additive one as it is."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros((), dtype=dtype, device=mask.device).where(mask, -torch.inf)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with all its scores written out; gradients flow through everything.

    Args:
        q: Queries, shape (batch, heads, queries, head size).
        k: Keys, shape (batch, heads, keys, head size).
        v: Values, same shape.
        bias: Added to the scores, broadcastable to (batch, heads, queries, keys).

    Returns:
        Output and log-sum-exp, both 0 for a query that sees no key.
    """
    scores, blind = _scores(q, k, bias)
    precise = torch.promote_types(q.dtype, torch.float32)
    lse = scores.to(precise).logsumexp(-1).masked_fill(blind[..., 0], 0.0)
    return (scores.softmax(-1).to(v.dtype) @ v).masked_fill(blind, 0.0), lse


def _scores(q: Tensor, k: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The scores, and which queries see no key."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + bias
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    # Rows without a key are given a harmless score, lest their softmax (and its gradient) be NaN.
    return scores.masked_fill(blind, 0.0), blind
