"""``spangym bench pilot``: what a pilot's models cost on long inputs, beside full attention."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spangym.attention import SlidingWindowAttention, SpanConfig
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.layers.modules import AttentionCombiner, split_heads
from spangym.attention.layers.sliding_window import MAX_REFINEMENT_STEPS
from spangym.envs.data.dataset import BYTES
from spangym.envs.data.dataset_registry import make_dataset
from spangym.experiments.benchmarks.long_inputs import FULL, TaskName, Timing, make_row
from spangym.experiments.pilot.corpus import encode, join_utterances
from spangym.experiments.pilot.model_optimizer import ModelOptimizer
from spangym.experiments.pilot.models import STRIDE, PilotModel, make_model
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig
from spangym.experiments.pilot.pilot_tasks import sample_batch, stack_frames
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus

LENGTHS: dict[TaskName, tuple[int, ...]] = {
    "speech": (2, 8, 30, 60, 120),
    "text": (256, 1024, 2048, 4096, 8192),
}
"""Seconds of recordings, and bytes."""

_QUICK_LENGTHS: dict[TaskName, tuple[int, ...]] = {"speech": (2, 8), "text": (256, 1024)}
_ROUNDS, _QUICK_ROUNDS = 3, 1
_SECONDS = 0.1
"""Of a turn, in which a short function is called several times."""
_UPDATES = 100_000
"""More than are made."""


@dataclass(frozen=True)
class Variant:
    """A model that is timed.

    Attributes:
        name: What it is called.
        config: Its attention.
        action: Of each layer; the layers' own predictors decide if None.
        refinement_steps: Most passes of iterative focus; the original layer takes 10 whatever it says.
        local_only: Whether `LocalAttention` takes the place of full attention.
    """

    name: str
    config: VariantConfig
    action: int | None = None
    refinement_steps: int = ModelConfig.num_refinement_steps
    local_only: bool = False


_STANDARD = VariantConfig("standard", "standard")
_INTEGRATED = VariantConfig("integrated", "integrated")

VARIANTS = (
    Variant(FULL, _STANDARD),
    Variant("hybrid", VariantConfig("hybrid", "hybrid")),
    Variant("focus", VariantConfig("focus", "focus")),
    Variant("integrated", _INTEGRATED),
    Variant(
        "integrated, learned-span", VariantConfig("learned-span", "integrated", soft_span=True)
    ),
    *(Variant(f"integrated, fixed:{action}", _INTEGRATED, action) for action in (1, 4, 9)),
    Variant("integrated, fixed:9, ten passes", _INTEGRATED, 9, MAX_REFINEMENT_STEPS),
    Variant("original", VariantConfig("original", "original")),
    *(
        Variant(f"local path alone, fixed:{action}", _STANDARD, action, local_only=True)
        for action in (1, 4, 9)
    ),
    Variant(
        "local path alone, fixed:9, ten passes", _STANDARD, 9, MAX_REFINEMENT_STEPS, local_only=True
    ),
    Variant("neither path", _STANDARD, 0, local_only=True),
)
"""The layers of a pilot, whose global path is full attention; then their local path without it."""


class LocalAttention(nn.Module):
    """A local path in the place of full attention, with as many parameters: only the keys differ.

    Args:
        config: Sizes.
        action: The span, in ninths of the longest.
        causal: Whether a token sees none after it.
    """

    def __init__(self, config: ModelConfig, action: int, causal: bool) -> None:
        super().__init__()
        options = SpanConfig(
            win_size=config.win_size,
            max_span=config.max_span,
            max_dist=config.max_span,
            temp_scale=config.temp_scale,
            causal=causal,
        )
        self.ln = nn.LayerNorm(config.dims)
        self.local = SlidingWindowAttention(
            config.heads, options, config.dims, num_refinement_steps=config.num_refinement_steps
        )
        self.combiner = AttentionCombiner(config.dims)
        self.register_buffer("scale", torch.tensor([action / (NUM_ACTIONS - 1)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend, shape (1, tokens, dims) to the same, and how many keys were visited."""
        done = self.local(self.ln(x), self.get_buffer("scale"))
        return self.combiner(split_heads(done.output, self.local.head)), done.qk_pairs


@dataclass(frozen=True)
class LongInput:
    """What is read at once.

    Attributes:
        content: As a pilot's model takes it, with one batch element.
        targets: What it is to find, of one batch element.
        num_classes: What it tells apart.
    """

    content: Tensor
    targets: Tensor
    num_classes: int

    def to(self, device: torch.device) -> LongInput:
        """The same on a device."""
        return LongInput(self.content.to(device), self.targets.to(device), self.num_classes)


def run(
    tasks: Sequence[TaskName],
    quick: bool,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Measure models that nobody trained.

    Args:
        tasks: What they read.
        quick: Shorter long_inputs and fewer rounds.
        device: Where they run.
        progress: Told what is measured next.
        seed: Of weights and long_inputs.

    Yields:
        A row for each task and variant, ready for JSON.

    Raises:
        ValueError: The extra ``speech`` is not installed.
    """
    lengths, rounds = (_QUICK_LENGTHS, _QUICK_ROUNDS) if quick else (LENGTHS, _ROUNDS)
    for task in tasks:
        timings: dict[str, list[Timing]] = {each.name: [] for each in VARIANTS}
        for long_input in sample_passages(task, lengths[task], seed, progress):
            for label, timing in _time(task, long_input.to(device), rounds, progress, seed):
                timings[label].append(timing)
        for label, own in timings.items():
            yield make_row(task, label, own, timings[FULL])


def sample_passages(
    task: TaskName,
    lengths: Sequence[int],
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[LongInput]:
    """Inputs of so many seconds or bytes.

    Utterances of one voice are joined until they last so long, so that recordings are somewhat
    longer. They are spoken where the pilot has not yet done so.
    """
    if task == "text":
        source = make_dataset("text", "evaluation")
        for length in lengths:
            content, targets = sample_batch(source, [np.random.default_rng(seed)], 1, length)
            yield LongInput(content[:, 0], targets[:, 0], BYTES)
        return
    corpus = build_corpus(
        SyntheticSpeechConfig(), progress=lambda done, all_: progress(f"speaking: {done} of {all_}")
    )
    utterances = corpus.test_seen if corpus.test_unseen is None else corpus.test_unseen
    for length in lengths:
        joined = join_utterances(utterances, length, 1, np.random.default_rng(seed), STRIDE)
        targets = torch.from_numpy(encode(joined.texts, corpus.alphabet))
        content = torch.from_numpy(stack_frames(joined.frames))
        yield LongInput(content, targets, 1 + len(corpus.alphabet))


class _TimedVariant:
    """A variant that reads a long_input.

    Args:
        variant: The variant.
        task: What it is to learn.
        long_input: On the device.
        seed: Of the weights.

    Attributes:
        qk_pairs: Of each layer when it last read.
    """

    def __init__(self, variant: Variant, task: TaskName, long_input: LongInput, seed: int) -> None:
        content = long_input.content
        self._passage = long_input
        self._action = None if variant.local_only else variant.action
        self._model = make_variant(variant, task, long_input.num_classes, content.shape[1], seed)
        self._model.to(content.device)
        # At a rate of 0 nothing is learned: every round does the same work.
        self._optimizer = ModelOptimizer(self._model, _UPDATES, 0.0)
        self.qk_pairs: list[Tensor] = []

    def train(self) -> None:
        """Update the model."""
        self._optimizer.step(self._model.losses(self._hidden(), self._passage.targets))

    @torch.no_grad()
    def infer(self) -> None:
        """Read without gradient."""
        self._model.head(self._hidden())

    def _hidden(self) -> Tensor:
        """What leaves the last block."""
        model = self._model
        hidden = model.embed(self._passage.content)
        actions = None
        if self._action is not None:
            actions = torch.full((1,), self._action, device=hidden.device)
        self.qk_pairs = []
        for index, attention in enumerate(model.attentions):
            if isinstance(attention, LocalAttention):
                output, keys = attention(hidden)
            else:
                output, keys, _ = model.attend(index, hidden, actions)
            hidden = model.apply_residual_ffn(index, hidden, output)
            self.qk_pairs.append(keys)
        return hidden


def _time(
    task: TaskName, long_input: LongInput, rounds: int, progress: Callable[[str], None], seed: int
) -> Iterator[tuple[str, Timing]]:
    """Time all variants on a long_input; they take turns."""
    device, tokens = long_input.content.device, long_input.content.shape[1]
    timed = {each.name: _TimedVariant(each, task, long_input, seed) for each in VARIANTS}
    functions: dict[tuple[str, str], Callable[[], object]] = {}
    for label, each in timed.items():
        functions[label, "training"], functions[label, "inference"] = each.train, each.infer
    names = [*functions]

    def on_turn(number: int, turn: int) -> None:
        label, what = names[turn]
        progress(f"{tokens} tokens of {task}, round {number} of {rounds}: {label}, {what}")

    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if device.type == "cuda":
        # Kernels are compiled for each length anew.
        for function in functions.values():
            function()
    seconds = time_in_turns([*functions.values()], rounds, _SECONDS, synchronize, on_turn)
    milliseconds = dict(zip(names, (1000 * each for each in seconds), strict=True))
    for label, each in timed.items():
        keys = torch.cat(each.qk_pairs).double().mean().item()
        training, inference = milliseconds[label, "training"], milliseconds[label, "inference"]
        yield label, Timing(tokens, keys, training, inference)


def make_variant(
    variant: Variant, task: TaskName, num_classes: int, ctx: int, seed: int
) -> PilotModel:
    """A model of the pilot's default size; as many parameters as the others to half a percent."""
    config = ModelConfig(num_refinement_steps=variant.refinement_steps)
    model = make_model(task, config, variant.config, num_classes, ctx, seed)
    if variant.local_only:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.attentions = nn.ModuleList(
                LocalAttention(config, variant.action or 0, model.causal)
                for _ in range(config.num_layers)
            )
    return model


def time_in_turns(
    functions: Sequence[Callable[[], object]],
    rounds: int,
    least: float,
    synchronize: Callable[[], object] = lambda: None,
    on_turn: Callable[[int, int], object] = lambda *_: None,
) -> list[float]:
    """Times of functions that take turns: what slows the machine slows all.

    Args:
        functions: The functions.
        rounds: Turns of each.
        least: Seconds of a turn, in which a short function is called several times.
        synchronize: Waits for the device.
        on_turn: Called before a turn with its round and the function's index.

    Returns:
        Median seconds of a call of each.
    """

    def seconds(index: int, calls: int) -> float:
        synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            functions[index]()
        synchronize()
        return (time.perf_counter() - began) / calls

    times: list[list[float]] = [[] for _ in functions]
    calls = [1 for _ in functions]
    for number in range(rounds + 1):
        for index, own in enumerate(times):
            if len(own) < rounds:
                on_turn(number, index)
                own.append(seconds(index, calls[index]))
        if number == 0:
            calls = [max(1, math.ceil(least / own[0])) for own in times]
            # A call that lasts a turn needs no other to be warm.
            times = [own if count == 1 else [] for own, count in zip(times, calls, strict=True)]
    return [statistics.median(own) for own in times]
