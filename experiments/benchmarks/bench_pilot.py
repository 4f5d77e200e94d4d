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

from spangym.attention import SlidingWindowAttention, SpanOptions
from spangym.attention.geometry import ACTIONS
from spangym.attention.layers.modules import AttentionCombiner, split_heads
from spangym.attention.layers.sliding_window import FOCUS_STEPS
from spangym.envs.data.dataset import BYTES
from spangym.envs.data.dataset_registry import open_source
from spangym.experiments.benchmarks.long_inputs import FULL, TaskName, Timing, make_row
from spangym.experiments.pilot.corpus import encode, join
from spangym.experiments.pilot.model_optimizer import Learner
from spangym.experiments.pilot.models import STRIDE, PilotModel, make_model
from spangym.experiments.pilot.pilot_study import ModelEntry, VariantEntry
from spangym.experiments.pilot.pilot_tasks import as_tokens, draw
from spangym.experiments.pilot.synthetic_speech import SpokenSpeech, speak_corpus

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
        label: What it is called.
        entry: Its attention.
        action: Of each layer; the layers' own predictors decide if None.
        passes: Most passes of iterative focus; the original layer takes 10 whatever it says.
        alone: Whether `LocalAttention` takes the place of full attention.
    """

    label: str
    entry: VariantEntry
    action: int | None = None
    passes: int = ModelEntry.focus_steps
    alone: bool = False


_STANDARD = VariantEntry("standard", "standard")
_INTEGRATED = VariantEntry("integrated", "integrated")

VARIANTS = (
    Variant(FULL, _STANDARD),
    Variant("hybrid", VariantEntry("hybrid", "hybrid")),
    Variant("focus", VariantEntry("focus", "focus")),
    Variant("integrated", _INTEGRATED),
    Variant("integrated, softspan", VariantEntry("softspan", "integrated", soft_span=True)),
    *(Variant(f"integrated, fixed:{action}", _INTEGRATED, action) for action in (1, 4, 9)),
    Variant("integrated, fixed:9, ten passes", _INTEGRATED, 9, FOCUS_STEPS),
    Variant("original", VariantEntry("original", "original")),
    *(
        Variant(f"local path alone, fixed:{action}", _STANDARD, action, alone=True)
        for action in (1, 4, 9)
    ),
    Variant("local path alone, fixed:9, ten passes", _STANDARD, 9, FOCUS_STEPS, alone=True),
    Variant("neither path", _STANDARD, 0, alone=True),
)
"""The layers of a pilot, whose global path is full attention; then their local path without it."""


class LocalAttention(nn.Module):
    """A local path in the place of full attention, with as many parameters: only the keys differ.

    Args:
        entry: Sizes.
        action: The span, in ninths of the longest.
        causal: Whether a token sees none after it.
    """

    def __init__(self, entry: ModelEntry, action: int, causal: bool) -> None:
        super().__init__()
        options = SpanOptions(
            win_size=entry.win_size,
            max_span=entry.max_span,
            max_dist=entry.max_span,
            temp_scale=entry.temp_scale,
            causal=causal,
        )
        self.ln = nn.LayerNorm(entry.dims)
        self.local = SlidingWindowAttention(
            entry.heads, options, entry.dims, focus_steps=entry.focus_steps
        )
        self.combiner = AttentionCombiner(entry.dims)
        self.register_buffer("scale", torch.tensor([action / (ACTIONS - 1)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend, shape (1, tokens, dims) to the same, and how many keys were visited."""
        done = self.local(self.ln(x), self.get_buffer("scale"))
        return self.combiner(split_heads(done.output, self.local.head)), done.visited_keys


@dataclass(frozen=True)
class Passage:
    """What is read at once.

    Attributes:
        content: As a pilot's model takes it, with one lane.
        targets: What it is to find, of one lane.
        classes: What it tells apart.
    """

    content: Tensor
    targets: Tensor
    classes: int

    def to(self, device: torch.device) -> Passage:
        """The same on a device."""
        return Passage(self.content.to(device), self.targets.to(device), self.classes)


def rows(
    tasks: Sequence[TaskName],
    quick: bool,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Measure models that nobody trained.

    Args:
        tasks: What they read.
        quick: Shorter passages and fewer rounds.
        device: Where they run.
        progress: Told what is measured next.
        seed: Of weights and passages.

    Yields:
        A row for each task and variant, ready for JSON.

    Raises:
        ValueError: The extra ``speech`` is not installed.
    """
    lengths, rounds = (_QUICK_LENGTHS, _QUICK_ROUNDS) if quick else (LENGTHS, _ROUNDS)
    for task in tasks:
        timings: dict[str, list[Timing]] = {each.label: [] for each in VARIANTS}
        for passage in read(task, lengths[task], seed, progress):
            for label, timing in _time(task, passage.to(device), rounds, progress, seed):
                timings[label].append(timing)
        for label, own in timings.items():
            yield make_row(task, label, own, timings[FULL])


def read(
    task: TaskName,
    lengths: Sequence[int],
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Passage]:
    """Passages of so many seconds or bytes.

    Utterances of one voice are joined until they last so long, so that recordings are somewhat
    longer. They are spoken where the pilot has not yet done so.
    """
    if task == "text":
        source = open_source("text", "evaluation")
        for length in lengths:
            content, targets = draw(source, [np.random.default_rng(seed)], 1, length)
            yield Passage(content[:, 0], targets[:, 0], BYTES)
        return
    corpus = speak_corpus(
        SpokenSpeech(), progress=lambda done, all_: progress(f"speaking: {done} of {all_}")
    )
    utterances = corpus.seen if corpus.unseen is None else corpus.unseen
    for length in lengths:
        joined = join(utterances, length, 1, np.random.default_rng(seed), STRIDE)
        targets = torch.from_numpy(encode(joined.texts, corpus.alphabet))
        content = torch.from_numpy(as_tokens(joined.frames))
        yield Passage(content, targets, 1 + len(corpus.alphabet))


class _Timed:
    """A variant that reads a passage.

    Args:
        variant: The variant.
        task: What it is to learn.
        passage: On the device.
        seed: Of the weights.

    Attributes:
        visited_keys: Of each layer when it last read.
    """

    def __init__(self, variant: Variant, task: TaskName, passage: Passage, seed: int) -> None:
        content = passage.content
        self._passage = passage
        self._action = None if variant.alone else variant.action
        self._model = make_variant(variant, task, passage.classes, content.shape[1], seed)
        self._model.to(content.device)
        # At a rate of 0 nothing is learnt: every round does the same work.
        self._learner = Learner(self._model, _UPDATES, 0.0)
        self.visited_keys: list[Tensor] = []

    def train(self) -> None:
        """Update the model."""
        self._learner.learn(self._model.losses(self._hidden(), self._passage.targets))

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
        self.visited_keys = []
        for index, attention in enumerate(model.attentions):
            if isinstance(attention, LocalAttention):
                output, keys = attention(hidden)
            else:
                output, keys, _ = model.attend(index, hidden, actions)
            hidden = model.follow(index, hidden, output)
            self.visited_keys.append(keys)
        return hidden


def _time(
    task: TaskName, passage: Passage, rounds: int, progress: Callable[[str], None], seed: int
) -> Iterator[tuple[str, Timing]]:
    """Time all variants on a passage; they take turns."""
    device, tokens = passage.content.device, passage.content.shape[1]
    timed = {each.label: _Timed(each, task, passage, seed) for each in VARIANTS}
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
    seconds = in_turns([*functions.values()], rounds, _SECONDS, synchronize, on_turn)
    milliseconds = dict(zip(names, (1000 * each for each in seconds), strict=True))
    for label, each in timed.items():
        keys = torch.cat(each.visited_keys).double().mean().item()
        training, inference = milliseconds[label, "training"], milliseconds[label, "inference"]
        yield label, Timing(tokens, keys, training, inference)


def make_variant(variant: Variant, task: TaskName, classes: int, ctx: int, seed: int) -> PilotModel:
    """A model of the pilot's default size; as many parameters as the others to half a percent."""
    entry = ModelEntry(focus_steps=variant.passes)
    model = make_model(task, entry, variant.entry, classes, ctx, seed)
    if variant.alone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.attentions = nn.ModuleList(
                LocalAttention(entry, variant.action or 0, model.causal)
                for _ in range(entry.layers)
            )
    return model


def in_turns(
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
