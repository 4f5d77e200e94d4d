"""Short sequences on the CPU: every query scored with every key, lanes side by side.

A masked call scores the masked keys too. While keys are few that costs less than cutting windows:
lane after lane, in Python, with a call for each block and for each window at an end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..spans import Spans
from .focus import Attended
from .reference import additive

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

MOST_PAIRS = 256 * 256
"""Queries times keys up to which this way is taken.

Measured on one core, 4 heads of 8 or 16 dimensions: with windows of up to 32 tokens it takes a
tenth of the other way's time at 128 tokens, a third at 256, half at 384, as much at 512. With
windows of hundreds it gains nothing from 256 tokens on.
"""

_TOGETHER = 1 << 20
"""Scores masked together: masks of some megabytes are written into the same memory again."""


def takes(q: Tensor, k: Tensor, spans: Spans, mask: Tensor | None, steps: int) -> bool:
    """Whether to go this way: it must not hang on how many lanes there are, nor on their spans.

    A mask, a soft edge and padding are left to the windows, which look at no more of them than is
    visited: whatever stands in padding, NaN too, is not to reach the output.
    """
    return (
        steps == 1
        and mask is None
        and spans.key_lengths is None
        and spans.edge is None
        # By the number of lanes the call packs half precision or not, and may round otherwise.
        and q.dtype.itemsize > 2
        and 0 < q.shape[-2] * k.shape[-2] <= MOST_PAIRS
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, inverse_temperature: Tensor | None
) -> Attended:
    """One pass over every interval, as `spangym.attention.kernels.Kernel` says, with details."""
    queries, keys = q.shape[-2], k.shape[-2]
    if inverse_temperature is not None:
        q = q * inverse_temperature.to(q.dtype)[:, None, None, None]
    first, end = spans.intervals(queries, keys)
    position = torch.arange(keys)
    parts = []
    lanes = max(1, _TOGETHER // (queries * keys))
    blocks = zip(*(each.split(lanes) for each in (q, k, v, first, end)), strict=True)
    for some_q, some_k, some_v, some_first, some_end in blocks:
        visible = (position >= some_first[..., None]) & (position < some_end[..., None])
        bias = additive(visible, q.dtype)[:, None]
        out, lse = _fused(some_q, some_k, some_v, attn_mask=bias)
        parts.append((out.transpose(1, 2), lse))
    out, lse = (torch.cat(column) for column in zip(*parts, strict=True))
    return Attended(out.transpose(1, 2), (end > first).long(), lse, q)
