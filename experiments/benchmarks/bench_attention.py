"""``spangym bench attention``: the cost of local attention against that of its query-key pairs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from spangym.attention import (
    NUM_ACTIONS,
    MultiHeadAttention,
    SlidingWindowAttention,
    SpanConfig,
    SpanGeometry,
)
from spangym.attention.kernels import cpu, flex
from spangym.attention.kernels.interface import KernelInputs
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.experiments.benchmarks.decoding_speed import decoding, one_pass_layer
from spangym.experiments.benchmarks.measure import BenchRow, interleaved_timing, peak_memory

PASS_GOALS = {256: 1.15, 128: 1.2, 64: 1.45, 32: 1.8}
"""Time of one pass over proportional cost, by window."""
FUSED_GOALS = {128: 1.15, 64: 1.15, 32: 1.15}
"""Time of one pass over that of the fused call alone, for a query-key pair, by window."""

TRAINING_MEMORY_GOAL = 8.0
"""Peak extra memory of a training step over that of the input.

Beside the output and two gradients it has the queries of every pass but the first: four to five
where windows converge as on this input.
"""

LAYER_WINDOWS = (64, 256)
LAYER_GOALS = {
    (64, 1024): 1.0,
    (64, 2048): 1.0,
    (256, 2048): 1.0,
    (64, 8192): 0.35,
    (256, 8192): 0.35,
    (64, 32768): 0.15,
    (256, 32768): 0.15,
}
"""Time of a layer with a pooled global path over that of multi-head attention, by window and
length."""


@dataclass(frozen=True)
class AttentionBench:
    """Measures one size. Layers have the default ratio of span to window, 384 to 256.

    Attributes:
        generator: Source of the input, which is random and normalized.
        rounds: Turns of each function.
        dims: Width.
        heads: Attention heads.
        min_seconds: Duration of a turn.
    """

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    rounds: int = 9
    dims: int = 384
    heads: int = 6
    min_seconds: float = 0.02

    def one_pass(self, contexts: Sequence[int]) -> Iterator[BenchRow]:
        """One pass of the CPU kernel over its proportional cost."""
        for tokens in contexts:
            k = split_heads(self._input(tokens), self.heads)
            for window, goal in PASS_GOALS.items():
                spans = _geometry(window)

                def attend(k: Tensor = k, spans: SpanGeometry = spans) -> object:
                    return cpu.attend(KernelInputs(k, k, k, spans))

                local, full = self._time(attend, _full(k))
                share = spans.qk_pairs(tokens).item() / tokens**2
                name = f"over proportional cost, ctx {tokens}, window {window}"
                yield BenchRow(f"one pass {name}", local / (share * full), goal, "lower")
                if tokens == contexts[-2]:
                    fused, pairs = _fused_alone(k, window)
                    alone, full = self._time(fused, _full(k))
                    ratio = alone * tokens**2 / (pairs * full)
                    yield BenchRow(f"fused call alone {name}", ratio, None, "lower")
                    alone, local = self._time(fused, attend)
                    ratio = local * pairs / (alone * share * tokens**2)
                    name = f"one pass over the fused call alone, ctx {tokens}, window {window}"
                    yield BenchRow(name, ratio, FUSED_GOALS.get(window), "lower")

    def whole_path(self, contexts: Sequence[int]) -> Iterator[BenchRow]:
        """The local path with all refinement passes, and the same against a loop over windows."""
        for tokens in contexts:
            x = self._input(tokens)
            for window in (256, 128, 64, 32, 16):
                path = self._path(window)
                output = path(x, torch.ones(1))
                name = f"ctx {tokens}, window {window}"

                def forward(x: Tensor = x, path: SlidingWindowAttention = path) -> object:
                    return path(x, torch.ones(1))

                if window > 16:
                    local, full = self._time(forward, _full(split_heads(x, self.heads)))
                    ratio = local / (output.qk_pairs.item() / tokens**2 * full)
                    row = f"local path over proportional cost, {name}"
                    yield BenchRow(row, ratio, 1.25, "lower")
                temperature = path.temperature(torch.ones(1)).item()

                def loop(x: Tensor = x, w: int = window, t: float = temperature) -> Tensor:
                    return self._loop(x, w, w * 3 // 2, t)

                torch.testing.assert_close(loop(), output.output, rtol=1e-3, atol=1e-4)
                local, looped = self._time(forward, loop)
                goal = 3.0 if window <= 32 else 1.0
                row = f"local path, speed against a loop, {name}"
                yield BenchRow(row, looped / local, goal, "higher")

    @torch.enable_grad()
    def training_step(self, contexts: Sequence[int]) -> Iterator[BenchRow]:
        """Forward and backward of the local path against a loop over windows."""
        for tokens in contexts:
            x = self._input(tokens).requires_grad_()
            grad = torch.randn(x.shape, generator=self.generator)
            for window in (256, 128, 64, 32, 16):
                path = self._path(window)
                temperature = path.temperature(torch.ones(1)).item()

                def step(
                    x: Tensor = x, grad: Tensor = grad, path: SlidingWindowAttention = path
                ) -> Tensor:
                    return torch.autograd.grad(path(x, torch.ones(1)).output, x, grad)[0]

                def loop(
                    x: Tensor = x, grad: Tensor = grad, w: int = window, t: float = temperature
                ) -> Tensor:
                    return torch.autograd.grad(self._loop(x, w, w * 3 // 2, t), x, grad)[0]

                torch.testing.assert_close(step(), loop(), rtol=1e-2, atol=1e-3)
                local, looped = self._time(step, loop)
                row = f"training step, speed against a loop, ctx {tokens}, window {window}"
                yield BenchRow(f"local path, {row}", looped / local, 1.0, "higher")

    @torch.enable_grad()
    def training_growth(self, contexts: Sequence[int]) -> Iterator[BenchRow]:
        """Growth of time and memory of forward and backward with the length."""
        path = self._path(64)
        seconds, extra = [], 0.0
        for tokens in contexts:
            x = self._input(tokens).requires_grad_()
            grad = torch.randn(x.shape, generator=self.generator)

            def step(x: Tensor = x, grad: Tensor = grad) -> Tensor:
                return torch.autograd.grad(path(x, torch.ones(1)).output, x, grad)[0]

            seconds.append(sum(self._time(step, step, rounds=max(2, self.rounds // 2))) / 2)
            extra = peak_memory(step) / (x.numel() * x.element_size())
        exponent = float(np.polyfit(np.log(contexts), np.log(seconds), 1)[0])
        name = f"ctx {contexts[0]} to {contexts[-1]}, window 64"
        row = f"local path, training step, exponent of time by ctx, {name}"
        yield BenchRow(row, exponent, 1.1, "lower")
        name = f"ctx {contexts[-1]}, window 64"
        row = f"local path, training step, peak extra memory over the input, {name}"
        yield BenchRow(row, extra, TRAINING_MEMORY_GOAL, "lower")

    def local_attention(self, tokens: int) -> Iterator[BenchRow]:
        """Against the package; each window attends to itself and the one on either side."""
        installed = importlib.util.find_spec("local_attention") is not None
        for window in (256, 128, 64, 32, 16):
            speed = memory = None
            if installed:
                from local_attention import LocalAttention

                package = LocalAttention(window, look_backward=1, look_forward=1)
                spans = SpanGeometry(torch.tensor([window]), torch.tensor([2 * window]))
                q, k, v = (split_heads(self._input(tokens), self.heads) for _ in range(3))
                packed = [each.contiguous() for each in (q, k, v)]

                def ours(
                    q: Tensor = q, k: Tensor = k, v: Tensor = v, spans: SpanGeometry = spans
                ) -> Tensor:
                    return cpu.attend(KernelInputs(q, k, v, spans)).output

                def theirs(
                    package: Callable[..., Tensor] = package, packed: list[Tensor] = packed
                ) -> Tensor:
                    return package(*packed)

                torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-5)
                one, other = self._time(ours, theirs)
                speed, memory = other / one, peak_memory(ours) / peak_memory(theirs)
            name = f"ctx {tokens}, window {window}"
            yield BenchRow(f"speed against local-attention, {name}", speed, 2.5, "higher")
            yield BenchRow(f"peak memory over local-attention's, {name}", memory, 0.5, "lower")

    def growth(self, contexts: Sequence[int]) -> Iterator[BenchRow]:
        """Growth of time and memory with the length."""
        path = self._path(64)
        seconds, extra = [], 0.0
        for tokens in contexts:
            x = self._input(tokens)

            def forward(x: Tensor = x) -> object:
                return path(x, torch.ones(1))

            seconds.append(sum(self._time(forward, forward, rounds=max(2, self.rounds // 2))) / 2)
            extra = peak_memory(forward) / (x.numel() * x.element_size())
        exponent = float(np.polyfit(np.log(contexts), np.log(seconds), 1)[0])
        name = f"ctx {contexts[0]} to {contexts[-1]}, window 64"
        yield BenchRow(f"local path, exponent of time by ctx, {name}", exponent, 1.1, "lower")
        name = f"ctx {contexts[-1]}, window 64"
        yield BenchRow(f"local path, peak extra memory over the input, {name}", extra, 2.0, "lower")

    @torch.enable_grad()
    def whole_layer(self, contexts: Sequence[int], causal: bool) -> Iterator[BenchRow]:
        """A whole layer, projections included, against multi-head attention of the same width.

        The global path is pooled; the local path has its longest span and one pass.
        """
        plain = MultiHeadAttention(self.dims, self.heads, causal)
        for tokens in contexts:
            x = self._input(tokens)
            forwards: list[Callable[[], Tensor]] = [functools.partial(plain, x)]
            for window in LAYER_WINDOWS:
                layer = one_pass_layer("pooled", window, causal, (tokens, self.dims, self.heads))
                forwards.append(
                    lambda x=x, own=layer: own.forward_with_action(x, NUM_ACTIONS - 1).output
                )
            # One turn of the longest takes minutes.
            rounds = self.rounds if tokens <= 2048 else max(2, self.rounds // 3)
            rounds = rounds if tokens <= 8192 else 2
            steps = [lambda run=run: run().sum().backward() for run in forwards]
            trained = self._time(*steps, rounds=rounds)
            with torch.no_grad():
                inferred = self._time(*forwards, rounds=rounds)
            kind = "causal layer" if causal else "layer"
            for phase, seconds in (("training step", trained), ("inference", inferred)):
                for window, own in zip(LAYER_WINDOWS, seconds[1:], strict=True):
                    name = f"{phase} over multi-head attention's, ctx {tokens}, window {window}"
                    goal = LAYER_GOALS.get((window, tokens))
                    yield BenchRow(f"pooled {kind}, {name}", own / seconds[0], goal, "lower")

    def batching(self, batch: int = 16, tokens: int = 512) -> Iterator[BenchRow]:
        """One call for a batch against one call for each of its elements."""
        path = SlidingWindowAttention(self.dims, self.heads, SpanConfig())
        x = torch.cat([self._input(tokens) for _ in range(batch)])
        scale = torch.linspace(0.1, 1, batch)

        def separate() -> None:
            for index in range(batch):
                path(x[index : index + 1], scale[index : index + 1])

        together, apart = self._time(lambda: path(x, scale), separate)
        name = f"{batch} batch elements in one call, speed against {batch} calls, ctx {tokens}"
        yield BenchRow(name, apart / together, 1.0, "higher")

    def _loop(self, x: Tensor, window: int, span: int, temperature: float) -> Tensor:
        """The local path as the original computes it: a fused call for each window and step."""
        results = []
        for start in range(0, x.shape[1], window):
            here = slice(start, start + window)
            keys = split_heads(x[:, max(0, start - span + window) : start + span], self.heads)
            queries, before = x[:, here], torch.zeros_like(x[:, here])
            now = before
            for step in range(SpanConfig.num_refinement_steps):
                scaled = split_heads(queries / temperature, self.heads)
                now = merge_heads(scaled_dot_product_attention(scaled, keys, keys))
                change = (now - before).detach().abs().mean()
                if step + 1 == SpanConfig.num_refinement_steps or change < 1e-4 + 0.1 * change:
                    break
                queries, before = queries + now, now
            results.append(now)
        return torch.cat(results, dim=1)

    def _time(self, *functions: Callable[[], object], rounds: int | None = None) -> list[float]:
        rounds = rounds or self.rounds
        return interleaved_timing(*functions, rounds=rounds, min_seconds=self.min_seconds)

    def _input(self, tokens: int) -> Tensor:
        x = torch.randn(1, tokens, self.dims, generator=self.generator)
        return layer_norm(x, (self.dims,))

    def _path(self, window: int) -> SlidingWindowAttention:
        config = SpanConfig(win_size=window, max_span=window * 3 // 2)
        return SlidingWindowAttention(self.dims, self.heads, config)


def run(
    quick: bool, bench: AttentionBench | None = None, device: str = "cpu"
) -> Iterator[BenchRow]:
    """Measure on a device.

    Args:
        quick: Whether to use shorter sequences and fewer rounds.
        bench: Sizes; the defaults if None.
        device: The CPU, or a CUDA device, where the kernel of accelerators is measured.

    Yields:
        Figures in the order of measurement.
    """
    if torch.device(device).type == "cuda":
        with torch.no_grad():
            yield from _cuda(quick, torch.device(device))
        return
    bench = bench or AttentionBench(rounds=3 if quick else 9)
    contexts = (1024, 2048) if quick else (1024, 2048, 4096, 8192)
    with torch.no_grad():
        # Before it frees a large block once, the allocator returns memory that the next call needs.
        torch.empty(31 * 2**20, dtype=torch.uint8).fill_(1)
        yield from bench.one_pass(contexts)
        yield from bench.whole_path((1024,) if quick else (1024, 4096))
        yield from bench.training_step((1024,) if quick else (1024, 4096))
        yield from bench.local_attention(1024 if quick else 4096)
        yield from bench.growth(contexts)
        yield from bench.training_growth(contexts if quick else (*contexts, 16384, 32768))
        lengths = (1024,) if quick else (1024, 2048, 8192)
        yield from bench.whole_layer(lengths if quick else (*lengths, 32768), causal=False)
        yield from bench.whole_layer(lengths, causal=True)
        yield from bench.batching()
        sizes = (bench.dims, bench.heads, bench.rounds, bench.min_seconds)
        yield from decoding((1,) if quick else (1, 16), *sizes)


def _fused_alone(k: Tensor, window: int) -> tuple[Callable[[], object], int]:
    """PyTorch's fused call on the windows inside the sequence, and its query-key pairs.

    It bounds every batching of windows: no input is gathered and no output is scattered.
    """
    reach, keys = window // 2, 2 * window
    count = (k.shape[2] - 2 * window) // window
    rows = k[0, :, window - reach :].unfold(1, keys, window)[:, :count].permute(1, 0, 3, 2)
    queries = k[0, :, window : (1 + count) * window].unflatten(1, (count, window)).transpose(0, 1)
    return lambda: scaled_dot_product_attention(queries, rows, rows), count * window * keys


def _cuda(quick: bool, device: torch.device) -> Iterator[BenchRow]:
    """FlexAttention over its query-key pairs against its own dense rate, in bfloat16."""
    sizes = [
        (tokens, batch, head_dim)
        for head_dim in (64, 128)
        for tokens, batch in ((1024, 256), (4096, 64), (16384, 16))
    ]
    for tokens, batch, head_dim in sizes[:1] if quick else sizes:
        name = f"CUDA, {batch} batch elements, ctx {tokens}, heads of {head_dim}"
        teraflops, rate, compilations, synchronizations = _flex(tokens, batch, head_dim, device)
        yield BenchRow(f"TFLOP/s over query-key pairs, {name}", teraflops, None, "higher")
        yield BenchRow(f"rate against dense FlexAttention, {name}", rate, 0.7, "higher")
        yield BenchRow(f"compilations after the first, {name}", compilations, 0.0, "lower")
        yield BenchRow(f"synchronizations inside a pass, {name}", synchronizations, 0.0, "lower")


def _flex(
    tokens: int, batch: int, head_dim: int, device: torch.device
) -> tuple[float, float, float, float]:
    """TFLOP/s, their share of the dense rate, compilations after the first, synchronizations."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, 6, tokens, head_dim)
    q = torch.randn(shape, device=device, dtype=torch.bfloat16, generator=generator)
    scales = [torch.rand(batch, device=device, generator=generator) for _ in range(4)]
    spans = [SpanGeometry.from_scale(scale, win_size=256, max_span=384) for scale in scales]
    # Compilations of other sizes count toward PyTorch's limit, after which it materializes scores.
    torch.compiler.reset()
    dense = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    flex.attend(KernelInputs(q, q, q, spans[0]))
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        flex.attend(KernelInputs(q, q, q, spans[1]))
        synchronizations = 0.0
    except RuntimeError:
        synchronizations = 1.0
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for each in spans:
        flex.attend(KernelInputs(q, q, q, each))
    compilations = float(counters["unique_graphs"] - before)
    local, full = interleaved_timing(
        lambda: flex.attend(KernelInputs(q, q, q, spans[0])),
        lambda: dense(q, q, q),
        rounds=5,
        synchronize=torch.cuda.synchronize,
    )
    pairs = spans[0].qk_pairs(tokens).sum().item()
    teraflops = 4 * pairs * shape[1] * head_dim / local / 1e12
    return teraflops, pairs / (batch * tokens**2) * full / local, compilations, synchronizations


def _geometry(window: int) -> SpanGeometry:
    return SpanGeometry(torch.tensor([window]), torch.tensor([window * 3 // 2]))


def _full(k: Tensor) -> Callable[[], Tensor]:
    """Full fused attention, the unit of proportional cost."""
    return lambda: scaled_dot_product_attention(k, k, k)
