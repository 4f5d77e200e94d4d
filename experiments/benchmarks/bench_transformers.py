"""``spangym bench transformers``: time and memory of a pretrained model under span control."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Cache, DynamicCache, LlamaConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from spangym.attention.transformers.cache_control import CacheMode
from spangym.attention.transformers.control import SpanControl, control
from spangym.attention.transformers.load_model import DEFAULT_MODEL, load_model
from spangym.attention.transformers.span_cache import SpanCacheLayer
from spangym.attention.transformers.span_choosers import Span
from spangym.experiments.benchmarks.attention_only import AttentionOnlyModel, head_sizes
from spangym.experiments.benchmarks.measure import BenchRow, interleaved_timing

SPANS: tuple[Span, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096, "full")
PREFILL_SPANS: tuple[Span, ...] = (256, "full")
SPAN = 256
"""Span while decoding."""

ATTENTION_GOALS: dict[tuple[int, Span], float] = {(4096, 256): 0.35}
"""Time of attention over that of the model's own, by number of tokens and span."""
LIMIT = 1.1
"""The same at any other span: control may never be slower than the model's own by more."""

SPEED_GOALS = {2048: 1.1, 4096: 1.5}
"""Tokens a second while decoding, over those with the model's own cache, by context."""
MEMORY_GOALS = {2048: 0.15, 4096: 0.08}
"""Memory of a trimmed cache over that of the model's own, by context."""

_NUM_LAYERS = 6
"""Layers whose attention is measured alone; what they share in a pass is computed once."""

_STEPS = 8
"""Tokens that are decoded in a turn."""

SMOLLM_SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class TransformersBench:
    """Measures one model.

    Attributes:
        model: A causal language model with the architecture of Llama.
        name: What the rows call it.
        rounds: Turns of each function.
        min_seconds: Duration of a turn.
    """

    model: PreTrainedModel
    name: str
    rounds: int = 7
    min_seconds: float = 0.2

    @property
    def config(self) -> LlamaConfig:
        """Shape of the model."""
        config = self.model.config
        assert isinstance(config, LlamaConfig)
        return config

    def attention(self, contexts: Sequence[int], spans: Sequence[Span]) -> Iterator[BenchRow]:
        """The attention functions of some layers in a pass, over the model's own."""
        for tokens in contexts:
            config = LlamaConfig(**{**self.config.to_dict(), "num_hidden_layers": _NUM_LAYERS})
            layers = AttentionOnlyModel(config, tokens).eval()
            own: list[Span] = [each for each in spans if each == "full" or each <= tokens]
            ratios = self._ratios(layers, {}, own, self.rounds)
            for span, ratio in zip(own, ratios, strict=True):
                name = f"attention of {self.name}, time over the model's own"
                goal = ATTENTION_GOALS.get((tokens, span), LIMIT)
                yield BenchRow(f"{name}, {_sizes(tokens, span)}", ratio, goal, "lower")

    def prefill(self, contexts: Sequence[int], spans: Sequence[Span]) -> Iterator[BenchRow]:
        """A whole pass of the model, over one without control."""
        for tokens in contexts:
            ids = torch.arange(tokens)[None] % self.config.vocab_size
            # Logits of one token, as `generate` asks for.
            inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
            # A pass takes up to a minute.
            ratios = self._ratios(self.model, inputs, spans, max(2, self.rounds // 2))
            for span, ratio in zip(spans, ratios, strict=True):
                name = f"prefill of {self.name}, time over that without control"
                goal = LIMIT if span == "full" else 1.0
                yield BenchRow(f"{name}, {_sizes(tokens, span)}", ratio, goal, "lower")

    def _ratios(
        self, model: PreTrainedModel, inputs: dict[str, Any], spans: Sequence[Span], rounds: int
    ) -> list[float]:
        """Time of a pass at each span over one without control."""
        example = {name: each for name, each in inputs.items() if name != "input_ids"}
        if "input_ids" in inputs:
            example["input_ids"] = inputs["input_ids"][:, :8]
        handles = [control(model, span, example=example) for span in spans]

        def run(handle: SpanControl | None) -> None:
            with handle or contextlib.nullcontext():
                model(**inputs)

        turns = [partial(run, handle) for handle in (None, *handles)]
        seconds = interleaved_timing(*turns, rounds=rounds, min_seconds=self.min_seconds)
        return [own / seconds[0] for own in seconds[1:]]

    def decoding(self, contexts: Sequence[int], batches: Sequence[int]) -> Iterator[BenchRow]:
        """Speed and memory of decoding one token after the other."""
        handles = {mode: control(self.model, SPAN, cache=mode) for mode in _MODES}
        for batch, context in ((each, ctx) for each in batches for ctx in contexts):
            names = ["the model's own cache", *(f"{mode}, window {SPAN}" for mode in _MODES)]
            caches = [self._filled_cache(batch, context) for _ in names]
            turns: list[Callable[[], object]] = [
                partial(self._decode, handle, cache, batch)
                for handle, cache in zip((None, *handles.values()), caches, strict=True)
            ]
            seconds = interleaved_timing(*turns, rounds=self.rounds, min_seconds=self.min_seconds)
            memory = [cache_nbytes(cache) for cache in caches]
            sizes = f"batch elements {batch}, ctx {context}"
            row = f"decoding with {self.name}"
            for name, own, nbytes in zip(names, seconds, memory, strict=True):
                speed, own_sizes = batch * _STEPS / own, f"{name}, {sizes}"
                yield BenchRow(f"{row}, tokens per second, {own_sizes}", speed, None, "higher")
                yield BenchRow(f"{row}, MB of memory, {own_sizes}", nbytes / 1e6, None, "lower")
                if name == names[0]:
                    continue
                own_row = f"{row}, speed against the model's own cache, {own_sizes}"
                yield BenchRow(own_row, seconds[0] / own, SPEED_GOALS.get(context), "higher")
                own_row = f"{row}, memory over the model's own cache, {own_sizes}"
                goal = MEMORY_GOALS.get(context) if name.startswith("trim") else LIMIT
                yield BenchRow(own_row, nbytes / memory[0], goal, "lower")

    def _filled_cache(self, batch: int, context: int) -> Cache:
        """A cache with random keys and values, which take the same time as a text's."""
        cache, config = DynamicCache(config=self.config), self.config
        generator = torch.Generator().manual_seed(0)
        _, key_heads, size = head_sizes(config)
        shape = (batch, key_heads, context, size)
        for index in range(config.num_hidden_layers):
            keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
            cache.update(keys, values, index)
        return cache

    def _decode(self, handle: SpanControl | None, cache: Cache, batch: int) -> None:
        """Decode a few tokens."""
        ids = torch.full((batch, 1), 5)
        # Its older name is deprecated in newer versions of Transformers.
        is_new = "cache" in inspect.signature(self.model.forward).parameters
        inputs = {"cache" if is_new else "past_key_values": cache}
        with handle or contextlib.nullcontext():
            for _ in range(_STEPS):
                self.model(ids, use_cache=True, **inputs)


_MODES: tuple[CacheMode, ...] = ("read", "trim")


def cache_nbytes(cache: Cache) -> int:
    """Size of the memory of a cache in bytes."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, SpanCacheLayer):
            total += layer.nbytes
        elif isinstance(layer, DynamicLayer):
            total += sum(each.nbytes for each in (layer.keys, layer.values) if each is not None)
    return total


def _sizes(tokens: int, span: Span) -> str:
    return f"full span, ctx {tokens}" if span == "full" else f"ctx {tokens}, window {span}"


def make_bench(rounds: int) -> TransformersBench:
    """The bench of SmolLM2-135M, or of random weights of its shape if it is not installed."""
    try:
        return TransformersBench(load_model(DEFAULT_MODEL).model, "SmolLM2-135M", rounds)
    except ValueError:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SMOLLM_SHAPE)).eval()
        return TransformersBench(model, "random weights of the shape of SmolLM2-135M", rounds)


def run(quick: bool, bench: TransformersBench | None = None) -> Iterator[BenchRow]:
    """Measure on the CPU.

    Args:
        quick: Whether to use shorter texts and fewer rounds.
        bench: Model; SmolLM2-135M if None.

    Yields:
        Figures in the order of measurement.
    """
    bench = bench or make_bench(rounds=3 if quick else 7)
    contexts = (1024,) if quick else (1024, 4096)
    with torch.inference_mode():
        # Before it frees a large block once, the allocator returns memory that the next call needs.
        torch.empty(31 * 2**20, dtype=torch.uint8).fill_(1)
        yield from bench.attention(contexts, SPANS)
        yield from bench.decoding((2048,) if quick else (2048, 4096), (1,) if quick else (1, 4))
        yield from bench.prefill(contexts, PREFILL_SPANS)
