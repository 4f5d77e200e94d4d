"""Studies: which models a pilot trains, on what and for how long."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.study import DisplayName, PositiveInt, Seed, StudyAgent
from spangym.utils.text import slug

CONTROLLABLE_ATTENTION = ("focus", "integrated")
"""Kinds of attention whose spans an agent can decide."""

_STRICT_CONFIG = ConfigDict(extra="forbid", strict=True)
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT_CONFIG)
class ModelConfig:
    """Sizes of the models, the same for all variants.

    Attributes:
        num_layers: Blocks of attention and feed-forward.
        dims: Width.
        heads: Attention heads; divides ``dims``.
        hidden: Width of the feed-forward parts beside plain attention. Variants whose attention has
            more parameters get narrower ones, so that all models are of one size.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law.
        soft_edge_width: Tokens over which a soft edge of the span fades out.
        num_refinement_steps: Most passes of iterative focus, but for the original layer, which takes 10.
        local_projections: Whether local paths learn projections of queries, keys and values; the
            original has none.
    """

    num_layers: PositiveInt = 2
    dims: PositiveInt = 96
    heads: PositiveInt = 4
    hidden: PositiveInt = 384
    win_size: PositiveInt = 16
    max_span: PositiveInt = 64
    temp_scale: Annotated[float, Field(ge=0)] = 0.01
    soft_edge_width: PositiveInt = 8
    num_refinement_steps: PositiveInt = 1
    local_projections: bool = False


@dataclass(frozen=True, config=_STRICT_CONFIG)
class VariantConfig:
    """One kind of attention, and what decides its spans.

    Attributes:
        name: What it is called in tables and figures.
        attention: ``standard``, ``hybrid``, ``focus``, ``integrated``, or ``original``: the
            integrated layer with all its defects, whose own Refiner learns in it.
        heads: Attention heads; the model's if 0.
        temperature_law: The spans for which scores are sharper: ``longer`` or ``shorter``.
        soft_span: Whether spans have a soft edge, so that the predictor learns them.
        cost_coef: What the visited keys of one full attention cost in the reward of an agent; with a
            soft edge what the longest span costs beside the loss, in bits.
        agent: What decides the spans of ``focus`` and ``integrated``; their own predictors if left
            out.
        learns: Whether the agent learns ``online``, while the model trains, or in the
            ``environment``: on the model's layers, half-trained at random spans, and is then
            frozen while the training goes on.
        reward: What the agent learns from: ``quality`` of the local output, or ``loss_improvement``:
            online, by how many bits the loss is below what it was in the last updates; in the
            environment, where nothing is updated, by how many it is below that at the full span.
    """

    name: DisplayName
    attention: Literal["standard", "hybrid", "focus", "integrated", "original"]
    heads: Annotated[int, Field(ge=0)] = 0
    temperature_law: Literal["longer", "shorter"] = "longer"
    soft_span: bool = False
    cost_coef: Annotated[float, Field(ge=0)] = 0.0
    agent: StudyAgent | None = None
    learns: Literal["online", "environment"] = "online"
    reward: Literal["quality", "loss_improvement"] = "quality"

    @property
    def slug(self) -> str:
        """The name as a folder's name."""
        return slug(self.name)


@dataclass(frozen=True, config=_STRICT_CONFIG)
class TextConfig:
    """What the language model reads.

    Attributes:
        dataset: A shipped source of bytes, or a file or folder.
        ctx: Bytes of a chunk.
        chunks: Chunks of a stream, one update each.
        evaluation_streams: Streams of the evaluation split that models are judged by.
    """

    dataset: str = "text"
    ctx: PositiveInt = 256
    chunks: PositiveInt = 4
    evaluation_streams: PositiveInt = 32


@dataclass(frozen=True, config=_STRICT_CONFIG)
class PilotStudy:
    """What a pilot trains.

    Attributes:
        name: What it is called.
        task: ``speech`` or ``text``.
        variants: What is compared; the first is what the others are compared with.
        seeds: Seeds of weights, data order and agents; each variant is trained from each.
        updates: Updates of a model.
        batch: Sequences of an update.
        learning_rate: Its peak.
        evaluations: How often a model is judged, at equal distances; the last time at its end.
        random_span_fraction: Share of the updates of ``focus`` and ``integrated`` variants that are made at
            random spans, lest the model knows only those that are chosen.
        agent_steps: Decisions that an agent learns from in the environment.
        model: Sizes.
        recordings: Folder of recordings with transcripts instead of synthetic speech.
        speech: What is spoken.
        masking: How much of each training utterance may be masked, as a share of two times of 0.25
            seconds each and two bands of 15 channels each.
        text: What is read.
        device: Where the models train, as torch names it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    task: Literal["speech", "text"]
    variants: Annotated[tuple[VariantConfig, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    updates: PositiveInt = 600
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    evaluations: PositiveInt = 6
    random_span_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    agent_steps: PositiveInt = 8192
    model: ModelConfig = field(default_factory=ModelConfig)
    recordings: str = ""
    speech: SyntheticSpeechConfig = field(default_factory=SyntheticSpeechConfig)
    masking: Fraction = 0.3
    text: TextConfig = field(default_factory=TextConfig)
    device: str = "cpu"

    @property
    def chunks(self) -> int:
        """Chunks of a stream, one update each."""
        return self.text.chunks if self.task == "text" else 1

    @property
    def temperature_law_pairs(self) -> dict[str, str]:
        """Labels of hybrid variants, by which temperature laws are compared, and their laws."""
        return {
            each.name: f"sharper for {each.temperature_law}"
            for each in self.variants
            if each.attention == "hybrid" and not each.soft_span and not each.heads
        }

    @property
    def predictor_counterpart(self) -> dict[str, str]:
        """Labels of variants with an agent, each with that of the same layer without one."""
        return {
            each.name: other.name
            for each in self.variants
            for other in self.variants
            if each.agent is not None
            and other.agent is None
            and not other.soft_span
            and (each.attention, each.heads, each.temperature_law)
            == (other.attention, other.heads, other.temperature_law)
        }

    def to_toml(self) -> str:
        """The study as TOML, everything spelled out."""
        content = TypeAdapter(PilotStudy).dump_python(self, mode="json", exclude_none=True)
        return tomli_w.dumps(content)
