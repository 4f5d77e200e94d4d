"""``spangym bench attention``: what local attention costs, against what its visited keys should."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from spangym.attention import SlidingWindowAttention, SpanConfig, SpanGeometry
from spangym.attention.kernels import cpu, flex
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.layers.sliding_window import MAX_REFINEMENT_STEPS
from spangym.experiments.benchmarks.measure import Row, interleaved_timing, peak_memory

DIMS, HEADS = 384, 6

_SECONDS = 0.02
"""Of a turn, in which a short function is called several times."""

_PASS_GOALS = {256: 1.15, 128: 1.2, 64: 1.45, 32: 1.8}
"""Time of one pass over proportional cost, by window."""


def run(quick: bool, generator: torch.Generator) -> Iterator[Row]:
    """Measure on the CPU, and on a CUDA device if there is one.

    Layers have the default ratio of span to window, 384 to 256; input is random and normalized.

    Args:
        quick: Shorter sequences and fewer rounds.
        generator: Source of the input.

    Yields:
        Figures as they are measured.
    """
    rounds = 3 if quick else 9
    with torch.no_grad():
        # Until an allocator has once freed much, it gives memory back that the next call needs.
        torch.empty(31 * 2**20, dtype=torch.uint8).fill_(1)
        yield from _one_pass((1024, 2048) if quick else (1024, 2048, 4096, 8192), rounds, generator)
        yield from _whole_path((1024,) if quick else (1024, 4096), rounds, generator)
        yield from _local_attention(1024 if quick else 4096, rounds, generator)
        yield from _growth((1024, 2048) if quick else (1024, 2048, 4096, 8192), rounds, generator)
        yield _batching(rounds, generator)
        yield from _cuda(quick)


def _one_pass(contexts: tuple[int, ...], rounds: int, generator: torch.Generator) -> Iterator[Row]:
    for tokens in contexts:
        k = split_heads(_input(tokens, generator), HEADS)
        for window, goal in _PASS_GOALS.items():
            spans = _spans(window)

            def attend(k: Tensor = k, spans: SpanGeometry = spans) -> object:
                return cpu.attend(k, k, k, spans)

            local, full = interleaved_timing(attend, _full(k), rounds=rounds, least=_SECONDS)
            share = spans.qk_pairs(tokens).item() / tokens**2
            name = f"over proportional cost, ctx {tokens}, window {window}"
            yield Row(f"one pass {name}", local / (share * full), goal, "lower")
            if tokens == contexts[-2]:
                fused, pairs = _fused_alone(k, window)
                alone, full = interleaved_timing(fused, _full(k), rounds=rounds, least=_SECONDS)
                yield Row(
                    f"fused call alone {name}", alone * tokens**2 / (pairs * full), None, "lower"
                )


def _fused_alone(k: Tensor, window: int) -> tuple[Callable[[], object], int]:
    """PyTorch's fused call on the windows that no end of the sequence clips, and its pairs.

    What any batching of windows can reach at best: nothing is put together around it.
    """
    reach, keys = window // 2, 2 * window
    count = (k.shape[2] - 2 * window) // window
    rows = k[0, :, window - reach :].unfold(1, keys, window)[:, :count].permute(1, 0, 3, 2)
    queries = k[0, :, window : (1 + count) * window].unflatten(1, (count, window)).transpose(0, 1)
    return lambda: scaled_dot_product_attention(queries, rows, rows), count * window * keys


def _whole_path(
    contexts: tuple[int, ...], rounds: int, generator: torch.Generator
) -> Iterator[Row]:
    for tokens in contexts:
        x = _input(tokens, generator)
        for window in (256, 128, 64, 32, 16):
            path = _path(window)
            done = path(x, torch.ones(1))
            name = f"ctx {tokens}, window {window}"
            if window > 16:
                local, full = interleaved_timing(
                    lambda x=x, path=path: path(x, torch.ones(1)),
                    _full(split_heads(x, HEADS)),
                    rounds=rounds,
                    least=_SECONDS,
                )
                share = done.qk_pairs.item() / tokens**2
                yield Row(
                    f"local path over proportional cost, {name}",
                    local / (share * full),
                    1.25,
                    "lower",
                )
            temperature = path.temperature(torch.ones(1)).item()
            looped = _loop(x, window, window * 3 // 2, temperature)
            torch.testing.assert_close(looped, done.output, rtol=1e-3, atol=1e-4)
            local, loop = interleaved_timing(
                lambda x=x, path=path: path(x, torch.ones(1)),
                lambda x=x, w=window, t=temperature: _loop(x, w, w * 3 // 2, t),
                rounds=rounds,
                least=_SECONDS,
            )
            yield Row(
                f"local path, speed against a loop, {name}",
                loop / local,
                3.0 if window <= 32 else 1.0,
                "higher",
            )


def _loop(x: Tensor, window: int, span: int, temperature: float) -> Tensor:
    """The local path as the original goes about it: a fused call for each window and step."""
    out = torch.empty_like(x)
    for start in range(0, x.shape[1], window):
        here = slice(start, start + window)
        keys = split_heads(x[:, max(0, start - span + window) : start + span], HEADS)
        queries, before = x[:, here], torch.zeros_like(x[:, here])
        now = before
        for step in range(MAX_REFINEMENT_STEPS):
            scaled = split_heads(queries / temperature, HEADS)
            now = merge_heads(scaled_dot_product_attention(scaled, keys, keys))
            change = (now - before).abs().mean()
            if step + 1 == MAX_REFINEMENT_STEPS or change < 1e-4 + 0.1 * change:
                break
            queries, before = queries + now, now
        out[:, here] = now
    return out


def _local_attention(tokens: int, rounds: int, generator: torch.Generator) -> Iterator[Row]:
    """Against the package, each window seeing itself and the one on either side."""
    there = importlib.util.find_spec("local_attention") is not None
    for window in (256, 128, 64, 32, 16):
        name = f"ctx {tokens}, window {window}"
        speed = memory = None
        if there:
            from local_attention import LocalAttention

            theirs = LocalAttention(window, look_backward=1, look_forward=1)
            spans = SpanGeometry(torch.tensor([window]), torch.tensor([2 * window]))
            q, k, v = (split_heads(_input(tokens, generator), HEADS) for _ in range(3))
            packed = [each.contiguous() for each in (q, k, v)]

            def ours(
                q: Tensor = q, k: Tensor = k, v: Tensor = v, spans: SpanGeometry = spans
            ) -> Tensor:
                return cpu.attend(q, k, v, spans).output

            def other(
                theirs: Callable[..., Tensor] = theirs, packed: list[Tensor] = packed
            ) -> Tensor:
                return theirs(*packed)

            torch.testing.assert_close(ours(), other(), rtol=1e-3, atol=1e-5)
            one, two = interleaved_timing(ours, other, rounds=rounds, least=_SECONDS)
            speed, memory = two / one, peak_memory(ours) / peak_memory(other)
        yield Row(f"speed against local-attention, {name}", speed, 2.5, "higher")
        yield Row(f"peak memory over local-attention's, {name}", memory, 0.5, "lower")


def _growth(contexts: tuple[int, ...], rounds: int, generator: torch.Generator) -> Iterator[Row]:
    path = _path(64)
    seconds, extra = [], 0.0
    for tokens in contexts:
        x = _input(tokens, generator)
        first, second = interleaved_timing(
            *([lambda x=x: path(x, torch.ones(1))] * 2), rounds=max(2, rounds // 2), least=_SECONDS
        )
        seconds.append((first + second) / 2)
        extra = peak_memory(lambda x=x: path(x, torch.ones(1))) / (x.numel() * x.element_size())
    exponent = np.polyfit(np.log(contexts), np.log(seconds), 1)[0]
    name = f"ctx {contexts[0]} to {contexts[-1]}, window 64"
    yield Row(f"local path, exponent of time by ctx, {name}", float(exponent), 1.1, "lower")
    yield Row(
        f"local path, peak extra memory over the input, ctx {contexts[-1]}, window 64",
        extra,
        2.0,
        "lower",
    )


def _batching(rounds: int, generator: torch.Generator) -> Row:
    batch_size, tokens = 16, 512
    path = SlidingWindowAttention(HEADS, SpanConfig())
    x = torch.cat([_input(tokens, generator) for _ in range(batch_size)])
    scale = torch.linspace(0.1, 1, batch_size)

    def apart() -> None:
        for index in range(batch_size):
            path(x[index : index + 1], scale[index : index + 1])

    together, separate = interleaved_timing(
        lambda: path(x, scale), apart, rounds=rounds, least=_SECONDS
    )
    name = (
        f"{batch_size} batch elements in one call, speed against {batch_size} calls, ctx {tokens}"
    )
    return Row(name, separate / together, 1.0, "higher")


def _cuda(quick: bool) -> Iterator[Row]:
    """FlexAttention over visited keys against its own dense rate, in bfloat16."""
    sizes = [
        (tokens, batch_size, size)
        for size in (64, 128)
        for tokens, batch_size in ((1024, 256), (4096, 64), (16384, 16))
    ]
    for tokens, batch_size, size in sizes[:1] if quick else sizes:
        name = f"CUDA, {batch_size} batch elements, ctx {tokens}, heads of {size}"
        teraflops = rate = compilations = synchronizations = None
        if torch.cuda.is_available():
            teraflops, rate, compilations, synchronizations = _flex(tokens, batch_size, size)
        yield Row(f"TFLOP/s over visited keys, {name}", teraflops, None, "higher")
        yield Row(f"rate against dense FlexAttention, {name}", rate, 0.7, "higher")
        yield Row(f"compilations after the first, {name}", compilations, 0.0, "lower")
        yield Row(f"synchronizations inside a pass, {name}", synchronizations, 0.0, "lower")


def _flex(tokens: int, batch_size: int, size: int) -> tuple[float, float, float, float]:
    """TFLOP/s, their share of the dense rate, compilations after the first, synchronizations."""
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    q = torch.randn(
        batch_size, HEADS, tokens, size, device=device, dtype=torch.bfloat16, generator=generator
    )
    scales = [torch.rand(batch_size, device=device, generator=generator) for _ in range(4)]
    spans = [SpanGeometry.from_scale(scale, win_size=256, max_span=384) for scale in scales]
    dense = torch.compile(flex_attention, dynamic=False)
    flex.attend(q, q, q, spans[0])
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        flex.attend(q, q, q, spans[1])
        synchronizations = 0.0
    except RuntimeError:
        synchronizations = 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for each in spans:
        flex.attend(q, q, q, each)
    compilations = float(counters["unique_graphs"] - before)
    local, full = interleaved_timing(
        lambda: flex.attend(q, q, q, spans[0]),
        lambda: dense(q, q, q),
        rounds=5,
        synchronize=torch.cuda.synchronize,
    )
    visited = spans[0].qk_pairs(tokens).sum().item()
    teraflops = 4 * visited * HEADS * size / local / 1e12
    return (
        teraflops,
        visited / (batch_size * tokens**2) * full / local,
        compilations,
        synchronizations,
    )


def _input(tokens: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(1, tokens, DIMS, generator=generator)
    return torch.nn.functional.layer_norm(x, (DIMS,))


def _spans(window: int) -> SpanGeometry:
    return SpanGeometry(torch.tensor([window]), torch.tensor([window * 3 // 2]))


def _path(window: int) -> SlidingWindowAttention:
    return SlidingWindowAttention(HEADS, SpanConfig(win_size=window, max_span=window * 3 // 2))


def _full(k: Tensor) -> Callable[[], Tensor]:
    """Full fused attention, the measure of proportional cost."""
    return lambda: scaled_dot_product_attention(k, k, k)
