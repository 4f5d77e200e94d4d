"""Decoding token by token with bounded caches, against a full key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from spangym.attention import NUM_ACTIONS, IntegratedAttention, MultiHeadAttention, SpanConfig
from spangym.attention.span_config import GlobalPath
from spangym.experiments.benchmarks.measure import BenchRow, interleaved_timing

CONTEXT, WINDOW = 4096, 256
LONGEST = NUM_ACTIONS - 1

BOUNDED: dict[GlobalPath, float] = {"pooled": 0.15, "none": 0.1}
"""Global paths whose caches are bounded, with the goal for their memory."""


@torch.no_grad()
def decoding(
    batches: Sequence[int], dims: int, heads: int, rounds: int, min_seconds: float
) -> Iterator[BenchRow]:
    """Speed and memory after 4,096 tokens, relative to multi-head attention of the same width.

    The layers have a window of 256, their longest span and one pass; projections are included.
    """
    generator = torch.Generator().manual_seed(0)
    full = MultiHeadAttention(dims, heads, causal=True)
    layers = {path: one_pass_layer(path, WINDOW, True, (CONTEXT, dims, heads)) for path in BOUNDED}
    for batch in batches:
        text = torch.randn(batch, CONTEXT, dims, generator=generator)
        token = torch.randn(batch, 1, dims, generator=generator)
        _, full_cache = full.decode(text)
        caches = {path: layers[path].decode(text, None, LONGEST)[1] for path in BOUNDED}
        shares = {path: cache.nbytes / full_cache.nbytes for path, cache in caches.items()}
        turns = [partial(layers[path].decode, token, caches[path], LONGEST) for path in BOUNDED]
        seconds, *bounded = interleaved_timing(
            partial(full.decode, token, full_cache),
            *turns,
            rounds=rounds,
            min_seconds=min_seconds,
        )
        name = f"batch elements {batch}, ctx {CONTEXT}"
        row = f"decoding, tokens per second, full cache, {name}"
        yield BenchRow(row, batch / seconds, None, "higher")
        for path, own in zip(BOUNDED, bounded, strict=True):
            own_name = f"global path {path}, window {WINDOW}, {name}"
            row = f"decoding, tokens per second, {own_name}"
            yield BenchRow(row, batch / own, None, "higher")
            row = f"decoding, speed against a full cache, {own_name}"
            yield BenchRow(row, seconds / own, 1.0, "higher")
            row = f"decoding, memory over a full cache's, {own_name}"
            yield BenchRow(row, shares[path], BOUNDED[path], "lower")


def one_pass_layer(
    path: GlobalPath, window: int, causal: bool, sizes: tuple[int, int, int]
) -> IntegratedAttention:
    """A layer of ``sizes`` (ctx, dims, head) whose longest span is 1.5 windows, with one pass."""
    config = SpanConfig(
        win_size=window,
        max_span=window * 3 // 2,
        causal=causal,
        action_scale="absolute",
        num_refinement_steps=1,
        global_path=path,
    )
    return IntegratedAttention(*sizes, config)
