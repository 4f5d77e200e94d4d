"""``spangym bench pilot``: cost of the pilot's models on long inputs, against full attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spangym.attention import SlidingWindowAttention, SpanConfig
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.layers.modules import AttentionCombiner, split_heads
from spangym.envs.data.dataset import BYTES
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.sample_batch import sample_batch
from spangym.envs.model.model_optimizer import ModelOptimizer
from spangym.experiments.benchmarks.long_inputs import FULL, TaskName, Timing, make_row
from spangym.experiments.benchmarks.measure import interleaved_timing
from spangym.experiments.pilot.corpus import encode, join_utterances
from spangym.experiments.pilot.models import STRIDE, PilotModel, make_model
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig
from spangym.experiments.pilot.pilot_tasks import stack_frames
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus

LENGTHS: dict[TaskName, tuple[int, ...]] = {
    "speech": (2, 8, 30, 60, 120),
    "text": (256, 1024, 2048, 4096, 8192),
}
"""Lengths in seconds of speech and in bytes of text."""

QUICK_LENGTHS: dict[TaskName, tuple[int, ...]] = {"speech": (2, 8), "text": (256, 1024)}


@dataclass(frozen=True)
class Variant:
    """A model to time.

    Attributes:
        name: Name in the table.
        config: Its attention.
        action: Action of each layer; the span predictors' choice if None.
        refinement_steps: Maximum number of refinement passes; always 10 in the original layer.
        local_only: Whether `LocalAttention` replaces full attention.
    """

    name: str
    config: VariantConfig
    action: int | None = None
    refinement_steps: int = ModelConfig.num_refinement_steps
    local_only: bool = False


_STANDARD = VariantConfig("standard", "standard")
_INTEGRATED = VariantConfig("integrated", "integrated")
_POOLED = VariantConfig("pooled", "integrated", global_path="pooled")
_NONE = VariantConfig("none", "integrated", global_path="none")

VARIANTS = (
    Variant(FULL, _STANDARD),
    Variant("hybrid", VariantConfig("hybrid", "hybrid")),
    Variant("focus", VariantConfig("focus", "focus")),
    Variant("integrated", _INTEGRATED),
    Variant(
        "integrated, learned-span", VariantConfig("learned-span", "integrated", soft_span=True)
    ),
    *(Variant(f"integrated, fixed:{action}", _INTEGRATED, action) for action in (1, 4, 9)),
    Variant("integrated, fixed:9, ten passes", _INTEGRATED, 9, SpanConfig.num_refinement_steps),
    *(Variant(f"integrated, pooled, fixed:{action}", _POOLED, action) for action in (1, 4, 9)),
    Variant("integrated, no global path, fixed:9", _NONE, 9),
    Variant("original", VariantConfig("original", "original")),
    *(
        Variant(f"local path alone, fixed:{action}", _STANDARD, action, local_only=True)
        for action in (1, 4, 9)
    ),
    Variant(
        "local path alone, fixed:9, ten passes",
        _STANDARD,
        9,
        SpanConfig.num_refinement_steps,
        local_only=True,
    ),
    Variant("neither path", _STANDARD, 0, local_only=True),
)
"""The pilot's layers, by default with full attention as global path, then their parts alone."""


class LocalAttention(nn.Module):
    """A local path in place of full attention, with the same number of parameters.

    Args:
        config: Sizes.
        action: Action that sets the span, 0 to 9.
        causal: Whether a token attends to no later one.
    """

    def __init__(self, config: ModelConfig, action: int, causal: bool) -> None:
        super().__init__()
        options = SpanConfig(
            win_size=config.win_size,
            max_span=config.max_span,
            max_dist=config.max_span,
            temp_scale=config.temp_scale,
            causal=causal,
            local_projections=True,
            num_refinement_steps=config.num_refinement_steps,
        )
        self.ln = nn.LayerNorm(config.dims)
        self.local = SlidingWindowAttention(config.dims, config.heads, options)
        self.combiner = AttentionCombiner(config.dims)
        self.register_buffer("scale", torch.tensor([action / (NUM_ACTIONS - 1)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of shape (1, tokens, dims), and the query-key pairs."""
        done = self.local(self.ln(x), self.get_buffer("scale"))
        return self.combiner(split_heads(done.output, self.local.head)), done.qk_pairs


@dataclass(frozen=True)
class LongInput:
    """One input sequence with its targets.

    Attributes:
        content: Input of a pilot model, batch size 1.
        targets: Targets, batch size 1.
        num_classes: Number of classes.
    """

    content: Tensor
    targets: Tensor
    num_classes: int

    def to(self, device: torch.device) -> LongInput:
        """The same on a device."""
        return LongInput(self.content.to(device), self.targets.to(device), self.num_classes)


@dataclass(frozen=True)
class PilotBench:
    """Sizes of the measurement. The models are untrained.

    Attributes:
        rounds: Turns of each function.
        seed: Seed of weights and inputs.
        lengths: Lengths by task, ascending: seconds of speech, bytes of text.
        min_seconds: Duration of a turn.
        corpus: Synthetic speech; it is synthesized if it is not in the cache.
    """

    rounds: int = 3
    seed: int = 0
    lengths: Mapping[TaskName, Sequence[int]] = field(default_factory=lambda: LENGTHS)
    min_seconds: float = 0.1
    corpus: SyntheticSpeechConfig = field(default_factory=SyntheticSpeechConfig)

    def inputs(
        self, task: TaskName, progress: Callable[[str], None] = lambda _: None
    ) -> Iterator[LongInput]:
        """Inputs of the lengths.

        Utterances of one speaker are joined until they reach the length, so recordings are
        slightly longer.
        """
        if task == "text":
            dataset = make_dataset("text", "evaluation")
            for length in self.lengths[task]:
                generators = [np.random.default_rng(self.seed)]
                content, targets = sample_batch(dataset, generators, 1, length)
                yield LongInput(content[:, 0], targets[:, 0], BYTES)
            return
        corpus = build_corpus(
            self.corpus, progress=lambda done, all_: progress(f"synthesizing: {done} of {all_}")
        )
        utterances = corpus.test_seen if corpus.test_unseen is None else corpus.test_unseen
        for length in self.lengths[task]:
            generator = np.random.default_rng(self.seed)
            joined = join_utterances(utterances, length, 1, generator, STRIDE)
            targets = torch.from_numpy(encode(joined.texts, corpus.alphabet))
            content = torch.from_numpy(stack_frames(joined.frames))
            yield LongInput(content, targets, 1 + len(corpus.alphabet))

    def time(
        self, task: TaskName, long_input: LongInput, progress: Callable[[str], None]
    ) -> Iterator[tuple[str, Timing]]:
        """Names and costs of all variants on one input; the variants take turns."""
        device, tokens = long_input.content.device, long_input.content.shape[1]
        timed = {each.name: _TimedVariant(each, task, long_input, self.seed) for each in VARIANTS}
        functions: dict[tuple[str, str], Callable[[], object]] = {}
        for name, each in timed.items():
            functions[name, "training"], functions[name, "inference"] = each.train, each.infer
        keys = [*functions]

        def on_turn(number: int, turn: int) -> None:
            name, phase = keys[turn]
            progress(f"{tokens} tokens of {task}, round {number} of {self.rounds}: {name}, {phase}")

        synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        if device.type == "cuda":
            # Kernels are compiled for each length.
            for function in functions.values():
                function()
        seconds = interleaved_timing(
            *functions.values(),
            rounds=self.rounds,
            min_seconds=self.min_seconds,
            synchronize=synchronize,
            on_turn=on_turn,
        )
        milliseconds = dict(zip(keys, (1000 * each for each in seconds), strict=True))
        for name, each in timed.items():
            pairs = torch.cat(each.qk_pairs).double().mean().item()
            training, inference = milliseconds[name, "training"], milliseconds[name, "inference"]
            yield name, Timing(tokens, pairs, training, inference)


def run(
    tasks: Sequence[TaskName],
    quick: bool,
    device: torch.device,
    progress: Callable[[str], None] = lambda _: None,
    bench: PilotBench | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure all variants on all lengths.

    Args:
        tasks: Tasks to measure.
        quick: Whether to use shorter inputs and fewer rounds.
        device: Device of the models.
        progress: Called with a description of the next measurement.
        bench: Sizes; the defaults if None.

    Yields:
        A row for each task and variant, ready for JSON.

    Raises:
        ValueError: The extra ``speech`` is not installed.
    """
    bench = bench or (PilotBench(rounds=1, lengths=QUICK_LENGTHS) if quick else PilotBench())
    for task in tasks:
        timings: dict[str, list[Timing]] = {each.name: [] for each in VARIANTS}
        for long_input in bench.inputs(task, progress):
            for name, timing in bench.time(task, long_input.to(device), progress):
                timings[name].append(timing)
        for name, own in timings.items():
            yield make_row(task, name, own, timings[FULL])


class _TimedVariant:
    """A model and an input.

    Attributes:
        qk_pairs: Query-key pairs of each layer in the last pass.
    """

    def __init__(self, variant: Variant, task: TaskName, long_input: LongInput, seed: int) -> None:
        content = long_input.content
        self._input = long_input
        self._action = None if variant.local_only else variant.action
        self._model = make_variant(variant, task, long_input.num_classes, content.shape[1], seed)
        self._model.to(content.device)
        # With a learning rate of 0 every round does the same work.
        self._optimizer = ModelOptimizer(self._model, 100_000, 0.0)
        self.qk_pairs: list[Tensor] = []

    def train(self) -> None:
        """Update the model."""
        self._optimizer.step(self._model.loss_bits(self._hidden(), self._input.targets))

    @torch.no_grad()
    def infer(self) -> None:
        """Run the model without gradient."""
        self._model.head(self._hidden())

    def _hidden(self) -> Tensor:
        """Output of the last block."""
        model = self._model
        hidden = model.embed(self._input.content)
        actions = None
        if self._action is not None:
            actions = torch.full((1,), self._action, device=hidden.device)
        self.qk_pairs = []
        for index, attention in enumerate(model.layers):
            if isinstance(attention, LocalAttention):
                output, keys = attention(hidden)
            else:
                output, keys, _ = model.attend(index, hidden, actions)
            hidden = model.connect(index, hidden, output)
            self.qk_pairs.append(keys)
        return hidden


def make_variant(
    variant: Variant, task: TaskName, num_classes: int, ctx: int, seed: int
) -> PilotModel:
    """A model of the pilot's default size; parameter counts agree to half a percent."""
    config = ModelConfig(num_refinement_steps=variant.refinement_steps)
    model = make_model(task, config, variant.config, num_classes, ctx, seed)
    if variant.local_only:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.layers = nn.ModuleList(
                LocalAttention(config, variant.action or 0, model.causal)
                for _ in range(config.num_layers)
            )
    return model
