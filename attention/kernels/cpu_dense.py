"""The CPU kernel for short sequences: every query is scored with every key, in batches.

Masked keys are scored too. With few keys this costs less than cutting windows, which takes Python
calls for each sequence, block, clipped window and refinement pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spangym.attention.geometry import SpanGeometry
from spangym.attention.kernels.interface import KernelInputs, KernelOutput
from spangym.attention.kernels.reference import score_bias, softmax_attention, to_additive_mask
from spangym.attention.kernels.refinement import refine_masked

MAX_QK_PAIRS = 256 * 256
"""Largest number of queries times keys.

Measured on one core, 4 heads of 8 or 16 dimensions: with windows of up to 32 tokens this kernel
takes a tenth of the time of the windowed one at 128 tokens, a third at 256, half at 384, the same
at 512. With windows of hundreds of tokens it gains nothing from 256 tokens on.
"""

MAX_QK_PAIRS_ITERATIVE = 128 * 128
"""The same with several passes, or with a soft edge, whose gradient needs every score.

Measured on one core, 16 sequences of 64 tokens, 4 heads of 24 dimensions, windows of 8, 10 passes
with gradients: a fifth of the time of the windowed kernel.
"""

_CHUNK_SCORES = 1 << 20
"""Scores that are masked together: the memory of masks of a few megabytes is reused."""

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def is_supported(inputs: KernelInputs) -> bool:
    """Whether to use this kernel; independent of the number of sequences and of their spans.

    Masks and padding need the windowed kernel, which reads visible keys only: NaN in the padding
    must not reach the output.
    """
    simple = inputs.steps == 1 and inputs.spans.edge is None
    qk_pairs = inputs.q.shape[-2] * inputs.k.shape[-2]
    return (
        inputs.mask is None
        and inputs.spans.key_lengths is None
        # The fused call rounds half precision differently for other numbers of sequences.
        and inputs.q.dtype.itemsize > 2
        and 0 < qk_pairs <= (MAX_QK_PAIRS if simple else MAX_QK_PAIRS_ITERATIVE)
    )


def attend(inputs: KernelInputs) -> KernelOutput:
    """Attention of every query over its interval, with log-sum-exp."""
    k, v = inputs.k, inputs.v
    chunk_size = max(1, _CHUNK_SCORES // (inputs.q.shape[-2] * k.shape[-2]))
    biases = _biases(inputs.q, k, inputs.spans, chunk_size)
    if inputs.steps > 1:
        biases = list(biases)

    def attend_once(q: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        del active
        chunks = zip(*(each.split(chunk_size) for each in (q, k, v)), biases, strict=True)
        outputs = [_attend_chunk(*chunk) for chunk in chunks]
        out, lse = (torch.cat(column) for column in zip(*outputs, strict=True))
        return out, lse

    return refine_masked(attend_once, inputs)


def _attend_chunk(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    # The fused call has no gradient with respect to the bias.
    if bias.requires_grad:
        return softmax_attention(q, k, v, bias)
    return _fused(q, k, v, attn_mask=bias)


def _biases(q: Tensor, k: Tensor, spans: SpanGeometry, chunk_size: int) -> Iterator[Tensor]:
    """Biases of the scores of consecutive sequences, each (chunk, 1, queries, keys)."""
    if spans.edge is not None:
        yield from score_bias(q, k, spans, None).split(chunk_size)
        return
    position = torch.arange(k.shape[-2])
    intervals = (each.split(chunk_size) for each in spans.intervals(q.shape[-2], k.shape[-2]))
    for first, end in zip(*intervals, strict=True):
        visible = (position >= first[..., None]) & (position < end[..., None])
        yield to_additive_mask(visible, q.dtype)[:, None]
