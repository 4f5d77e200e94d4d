"""Short sequences on the CPU: every query scored with every key, sequences side by side.

A masked call scores the masked keys too. While keys are few that costs less than cutting windows:
sequence after sequence, in Python, with a call for each block and for each window at an end, in each pass
of iterative focus.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.reference import score_bias, softmax_attention, to_additive_mask
from spangym.attention.kernels.refinement import KernelOutput, refine_masked

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

MAX_QK_PAIRS = 256 * 256
"""Queries times keys up to which this way is taken.

Measured on one core, 4 heads of 8 or 16 dimensions: with windows of up to 32 tokens it takes a
tenth of the other way's time at 128 tokens, a third at 256, half at 384, as much at 512. With
windows of hundreds it gains nothing from 256 tokens on.
"""

MAX_QK_PAIRS_ITERATIVE = 128 * 128
"""The same where there are several passes, or a soft edge, whose gradient needs every score.

Measured on one core, 16 sequences of 64 tokens, 4 heads of 24 dimensions, windows of 8, 10 passes with
their gradient: a fifth of the other way's time.
"""

_TOGETHER = 1 << 20
"""Scores masked together: masks of some megabytes are written into the same memory again."""


def is_supported(
    q: Tensor, k: Tensor, spans: SpanGeometry, mask: Tensor | None, steps: int
) -> bool:
    """Whether to go this way: it must not hang on how many sequences there are, nor on their spans.

    A mask and padding are left to the windows, which look at no more of them than is visited:
    whatever stands in padding, NaN too, is not to reach the output.
    """
    simple = steps == 1 and spans.edge is None
    return (
        mask is None
        and spans.key_lengths is None
        # By the number of sequences the call packs half precision or not, and may round otherwise.
        and q.dtype.itemsize > 2
        and 0 < q.shape[-2] * k.shape[-2] <= (MAX_QK_PAIRS if simple else MAX_QK_PAIRS_ITERATIVE)
    )


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: SpanGeometry,
    steps: int,
    inverse_temperature: Tensor | None,
) -> KernelOutput:
    """Attention of every interval, as `spangym.attention.kernels.Kernel` says, with details."""
    keys = k.shape[-2]
    chunk_size = max(1, _TOGETHER // (q.shape[-2] * keys))
    biases = _biases(q, k, spans, chunk_size)
    kept = [*biases] if steps > 1 else biases

    def once(q: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        del active
        blocks = zip(*(each.split(chunk_size) for each in (q, k, v)), kept, strict=True)
        parts = [_pass(*block) for block in blocks]
        out, lse = (torch.cat(column) for column in zip(*parts, strict=True))
        return out, lse

    return refine_masked(once, q, spans, keys, steps, inverse_temperature)


def _pass(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; the fused call has no gradient for what is added to the scores."""
    if bias.requires_grad:
        return softmax_attention(q, k, v, bias)
    return _fused(q, k, v, attn_mask=bias)


def _biases(q: Tensor, k: Tensor, spans: SpanGeometry, chunk_size: int) -> Iterator[Tensor]:
    """What is added to the scores of so many sequences after so many, (batch, 1, queries, keys)."""
    if spans.edge is not None:
        yield from score_bias(q, k, spans, None).split(chunk_size)
        return
    position = torch.arange(k.shape[-2])
    first, end = (each.split(chunk_size) for each in spans.intervals(q.shape[-2], k.shape[-2]))
    for some_first, some_end in zip(first, end, strict=True):
        visible = (position >= some_first[..., None]) & (position < some_end[..., None])
        yield to_additive_mask(visible, q.dtype)[:, None]
