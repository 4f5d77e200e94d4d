"""A single pass over windows on the CPU by matrix products.

Queries, keys and values are multiplied where they are: the windows of a head are one batched
product, without a copy of their overlapping intervals, and outputs are written where they stay.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spangym.attention.kernels.cpu_blocks import Block, blocks
from spangym.attention.kernels.cpu_products import SAFE_SUMS, exp2_
from spangym.attention.kernels.cpu_windows import refine
from spangym.attention.kernels.interface import KernelInputs

MIN_TOKENS, MAX_TOKENS = 768, 4096
"""Tokens of a block. Its queries are copied, if there is a temperature."""

MIN_WINDOW = 4

_MAX_QK_PAIRS = 1 << 16
"""Largest number of query-key pairs of a window and head."""

_MAX_SCORES = 1 << 17
"""Scores of one product: 512 KiB in single precision.

Measured on one core with 4 to 6 heads of 16, 64 and 128, against the fused call, with a block that
has at least `MIN_TOKENS`: 0.92 to 1 of its time with windows of 64 and 128 tokens, 0.55 to 1 with
windows of 4 to 32; causal ones 0.3 to 0.95. Shorter blocks take up to 1.2 times as long, windows of
1 and 2 tokens up to 2 times; windows of 256 tokens gain nothing.
"""


def is_supported(inputs: KernelInputs) -> bool:
    """Whether to use this kernel."""
    return (
        inputs.steps == 1
        and inputs.mask is None
        and inputs.spans.edge is None
        and inputs.q.dtype.itemsize > 2
    )


def attend(inputs: KernelInputs) -> list[Tensor]:
    """Output, passes and, if asked for, log-sum-exp and queries of the tokens of all sequences."""
    q = inputs.q
    batch, heads, queries, size = q.shape
    tokens = batch * queries
    results = [q.new_empty(tokens, heads, size), torch.ones(tokens, dtype=torch.int64)]
    if inputs.return_lse:
        results += [q.new_empty(tokens, heads), torch.empty_like(results[0])]
    buffer = q.new_empty(_MAX_SCORES)
    start = 0
    for block in blocks(inputs, MAX_TOKENS):
        end = start + (block if isinstance(block, int) else block.tokens)
        parts = [each[start:end] for each in results]
        if isinstance(block, int):
            for each in parts:
                each.zero_()
        elif not _attend(block, parts, buffer):
            (found,) = refine(block.windows(), 1)
            for each, own in zip(parts, found, strict=False):
                each.copy_(own)
        start = end
    return results


def _attend(block: Block, results: list[Tensor], buffer: Tensor) -> bool:
    """Write the results of a block, or return False: the fused call is as fast, or exact."""
    queries, keys = block.queries, block.keys
    is_faster = queries >= MIN_WINDOW and queries * keys <= _MAX_QK_PAIRS
    if block.tokens < MIN_TOKENS or not is_faster:
        return False
    windows = block.windows()
    if windows.triangle:
        return False
    (count, _, heads, size) = windows.q.shape
    out, _, *more = results
    out = out.view(windows.q.shape)
    most = min(count, _MAX_SCORES // (queries * keys))
    weighted = buffer.new_empty(most, queries, size)
    sums = buffer.new_empty(heads, count, queries, 1)
    # Powers of two are faster, as in `cpu_products`. The bias of a causal window is 0 or -inf.
    scale = math.log2(math.e) / math.sqrt(size)
    bias = buffer.new_zeros(1, 1, 1) if windows.bias is None else windows.bias[0]
    beta = int(windows.bias is not None)
    for first in range(0, count, most):
        number = min(most, count - first)
        some = slice(first, first + number)
        for head in range(heads):
            q, k, v = (each[some, :, head] for each in windows[:3])
            powers = buffer[: number * queries * keys]
            weights = powers.view(number, queries, keys)
            torch.baddbmm(bias, q, k.transpose(1, 2), beta=beta, alpha=scale, out=weights)
            exp2_(powers)
            own_sums, own_out = sums[head, some], weighted[:number]
            torch.sum(weights, -1, keepdim=True, out=own_sums)
            torch.bmm(weights, v, out=own_out)
            torch.div(own_out, own_sums, out=out[some, :, head])
    low, high = sums.aminmax()
    if not SAFE_SUMS[0] <= low.item() <= high.item() <= SAFE_SUMS[1]:
        return False
    if more:
        more[0].copy_(sums.log_().view(heads, -1).T)
        more[1].copy_(windows.q.flatten(0, 1))
    return True
