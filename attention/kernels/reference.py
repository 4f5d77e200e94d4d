"""The plain kernel, on any device: a dense mask. What the other kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from ..spans import Spans


def attend(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, active: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of every query over the interval of its window, through a dense mask.

    Args:
        q: Queries, shape (lanes, heads, tokens, head size).
        k: Keys, same shape.
        v: Values, same shape.
        spans: Window and span of each lane.
        active: Tokens to compute, boolean of shape (lanes, tokens), equal within a window.

    Returns:
        Output, shaped like ``q``, and log-sum-exp of the scaled scores (lanes, heads, tokens).
    """
    tokens = q.shape[-2]
    first, end = spans.intervals(tokens)
    position = torch.arange(tokens, device=q.device)
    visible = (position >= first[..., None]) & (position < end[..., None])
    if active is not None:
        visible = visible & active[..., None]
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    sees_keys = visible.any(-1)[:, None]
    # Rows without a key are given a harmless score, lest their softmax (and its gradient) be NaN.
    scores = scores.masked_fill(~sees_keys[..., None], 0.0)
    precise = torch.promote_types(q.dtype, torch.float32)
    lse = scores.to(precise).logsumexp(-1).masked_fill(~sees_keys, 0.0)
    out = (scores.softmax(-1) @ v).masked_fill(~sees_keys[..., None], 0.0)
    return out, lse
