"""Configuration of a pilot: models, task and training."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.field_types import (
    Count,
    DisplayName,
    Episodes,
    Flag,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    Seeds,
    Size,
    SizeOrZero,
    Steps,
    StudyName,
    Text,
)
from spangym.experiments.studies.study import StudyAgent
from spangym.utils.text import slug

CONTROLLABLE_ATTENTION = ("focus", "integrated")
"""Attention of a `VariantConfig` whose spans an agent can set."""

_STRICT_CONFIG = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT_CONFIG)
class ModelConfig:
    """Sizes of the models, the same for all variants.

    Attributes:
        num_layers: Number of blocks of attention and feed-forward.
        dims: Width.
        heads: Number of attention heads; divides ``dims``.
        hidden: Width of the feed-forward parts of the plain model. Variants whose attention has
            more parameters get narrower ones, so that all models have one size.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law.
        soft_edge_width: Width of a soft span edge, in tokens.
        num_refinement_steps: Maximum refinement passes; the original layer always takes up to 10.
        local_projections: Whether local paths have learned projections of queries, keys and values,
            which the original lacks.
    """

    num_layers: Annotated[Size, Field(le=1024)] = 2
    dims: Annotated[Size, Field(le=2**16)] = 96
    heads: Annotated[Size, Field(le=2**16)] = 4
    hidden: Annotated[Size, Field(le=2**16)] = 384
    win_size: Size = 16
    max_span: Size = 64
    temp_scale: NonNegativeFloat = 0.01
    soft_edge_width: Size = 8
    num_refinement_steps: Annotated[Size, Field(le=1000)] = 1
    local_projections: Flag = False


@dataclass(frozen=True, config=_STRICT_CONFIG)
class VariantConfig:
    """One kind of attention, and the controller of its spans.

    Attributes:
        name: Name in tables and figures.
        attention: ``standard``, ``hybrid``, ``focus``, ``integrated``, or ``original``: the
            integrated layer with all its defects, in which its own Refiner learns.
        heads: Number of attention heads; the model's if 0.
        temperature_law: Spans with sharper scores: ``longer`` or ``shorter``.
        soft_span: Whether spans have a soft edge, so that the span predictor learns.
        global_path: What the global path attends to: ``full`` to every token, ``pooled`` to means
            of blocks of tokens, ``none`` for no global path. It is full in ``standard`` and
            ``original`` attention.
        pool: Tokens of a block of the pooled global path.
        cost_coef: Cost of the query-key pairs of full attention in the agent's reward; with a soft
            edge, cost of the longest span in the loss, in bits.
        agent: Controller of ``focus`` and ``integrated`` attention; the span predictor by default.
        learns: When the agent learns: ``online``, while the model trains, or in the
            ``environment``: on the layers of the model half-way through a training at random spans.
            The agent is then frozen, and the model trains on.
        reward: Reward of the agent: ``quality`` of the local output, or ``loss_improvement``, the
            model's loss below its moving average (online) or below that at the full span
            (environment), in bits.
    """

    name: DisplayName
    attention: Literal["standard", "hybrid", "focus", "integrated", "original"]
    heads: Annotated[SizeOrZero, Field(le=2**16)] = 0
    temperature_law: Literal["longer", "shorter"] = "longer"
    soft_span: Flag = False
    global_path: Literal["full", "pooled", "none"] = "full"
    pool: Size = 16
    cost_coef: NonNegativeFloat = 0.0
    agent: StudyAgent | None = None
    learns: Literal["online", "environment"] = "online"
    reward: Literal["quality", "loss_improvement"] = "quality"

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return slug(self.name)

    @property
    def layer(self) -> tuple[str | int, ...]:
        """What determines its layer apart from the controller and the edge of the spans."""
        return (self.attention, self.heads, self.temperature_law, self.global_path, self.pool)


@dataclass(frozen=True, config=_STRICT_CONFIG)
class TextConfig:
    """Text of the language models.

    Attributes:
        dataset: A shipped dataset of bytes, or a file or folder.
        ctx: Bytes of a chunk.
        chunks: Chunks of a stream, with one update each.
        evaluation_streams: Streams of the evaluation split.
    """

    dataset: Text = "text"
    ctx: Size = 256
    chunks: Count = 4
    evaluation_streams: Episodes = 32


@dataclass(frozen=True, config=_STRICT_CONFIG)
class PilotStudy:
    """A comparison of model variants on one task.

    Attributes:
        name: Name of the study.
        task: ``speech`` or ``text``.
        variants: Variants of the model; the first is the baseline.
        seeds: Seeds of weights, batches and agents; each variant is trained from each.
        updates: Number of updates of a model.
        batch: Sequences of an update.
        learning_rate: Peak learning rate.
        evaluations: Number of evaluations, evenly spaced; the last one at the end.
        random_span_fraction: Fraction of the updates of ``focus`` and ``integrated`` variants at
            random spans, so that the model works at spans that the agent does not choose.
        agent_steps: Steps of an agent that learns in the environment.
        model: Sizes of the models.
        recordings: Folder of recordings with transcripts, in place of synthetic speech.
        speech: Synthetic speech.
        masking: Strength of SpecAugment on training utterances; 1 masks up to two times of 0.25
            seconds and two bands of 15 channels.
        text: Text of the language models.
        device: Device of the models, as torch names it.
    """

    name: StudyName
    task: Literal["speech", "text"]
    variants: Annotated[tuple[VariantConfig, ...], Field(min_length=1, max_length=1000)]
    seeds: Seeds = (0,)
    updates: Steps = 600
    batch: Annotated[Count, Field(le=10**5)] = 16
    learning_rate: PositiveFloat = 2e-3
    evaluations: Count = 6
    random_span_fraction: Annotated[Fraction, Field(lt=1)] = 0.25
    agent_steps: Steps = 8192
    model: ModelConfig = field(default_factory=ModelConfig)
    recordings: Text = ""
    speech: SyntheticSpeechConfig = field(default_factory=SyntheticSpeechConfig)
    masking: Fraction = 0.3
    text: TextConfig = field(default_factory=TextConfig)
    device: Text = "cpu"

    @property
    def slug(self) -> str:
        """Name as a folder name."""
        return slug(self.name)

    @property
    def chunks(self) -> int:
        """Chunks of a stream, with one update each."""
        return self.text.chunks if self.task == "text" else 1

    @property
    def temperature_law_pairs(self) -> dict[str, str]:
        """Temperature laws, in words, of the plain hybrid variants, by name."""
        return {
            each.name: f"sharper for {each.temperature_law}"
            for each in self.variants
            if each.attention == "hybrid"
            and not each.soft_span
            and not each.heads
            and each.global_path == "full"
        }

    @property
    def predictor_counterpart(self) -> dict[str, str]:
        """Names of variants with an agent, with the variant of the same layer without one."""
        return {
            each.name: other.name
            for each in self.variants
            for other in self.variants
            if each.agent is not None
            and other.agent is None
            and not other.soft_span
            and each.layer == other.layer
        }

    def to_toml(self) -> str:
        """Return the study as TOML, with all defaults."""
        content = TypeAdapter(PilotStudy).dump_python(self, mode="json", exclude_none=True)
        return tomli_w.dumps(content)
