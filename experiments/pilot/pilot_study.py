"""Plans: which models a pilot trains, on what and for how long."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from spangym.experiments.pilot.synthetic_speech import SpokenSpeech
from spangym.experiments.studies.study import AgentEntry, Label, PositiveInt, Seed, slug

CONTROLLED = ("focus", "integrated")
"""Kinds of attention whose spans an agent can decide."""

_STRICT = ConfigDict(extra="forbid", strict=True)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT)
class ModelEntry:
    """Sizes of the models, the same for all variants.

    Attributes:
        layers: Blocks of attention and feed-forward.
        dims: Width.
        heads: Attention heads; divides ``dims``.
        hidden: Width of the feed-forward parts beside plain attention. Variants whose attention has
            more parameters get narrower ones, so that all models are of one size.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        temp_scale: Strength of the temperature law.
        ramp: Tokens over which a soft edge of the span fades out.
        focus_steps: Most passes of iterative focus, but for the original layer, which takes 10.
        local_projections: Whether local paths learn projections of queries, keys and values; the
            original has none.
    """

    layers: PositiveInt = 2
    dims: PositiveInt = 96
    heads: PositiveInt = 4
    hidden: PositiveInt = 384
    win_size: PositiveInt = 16
    max_span: PositiveInt = 64
    temp_scale: Annotated[float, Field(ge=0)] = 0.01
    ramp: PositiveInt = 8
    focus_steps: PositiveInt = 1
    local_projections: bool = False


@dataclass(frozen=True, config=_STRICT)
class VariantEntry:
    """One kind of attention, and what decides its spans.

    Attributes:
        label: What it is called in tables and figures.
        attention: ``standard``, ``hybrid``, ``focus``, ``integrated``, or ``original``: the
            integrated layer with all its defects, whose own Refiner learns in it.
        heads: Attention heads; the model's if 0.
        sharpen: Sharper scores for longer spans (True) or for shorter ones (False).
        soft_span: Whether spans have a soft edge, so that the predictor learns them.
        price: What the visited keys of one full attention cost in the reward of an agent; with a
            soft edge what the longest span costs beside the loss, in bits.
        agent: What decides the spans of ``focus`` and ``integrated``; their own predictors if left
            out.
        learns: Whether the agent learns ``online``, while the model trains, or in the
            ``environment``: on the model's layers, half-trained at random spans, and is then
            frozen while the training goes on.
        reward: What the agent learns from: ``quality`` of the local output, or ``learning``:
            online, by how many bits the loss is below what it was in the last updates; in the
            environment, where nothing is updated, by how many it is below that at the full span.
    """

    label: Label
    attention: Literal["standard", "hybrid", "focus", "integrated", "original"]
    heads: Annotated[int, Field(ge=0)] = 0
    sharpen: bool = True
    soft_span: bool = False
    price: Annotated[float, Field(ge=0)] = 0.0
    agent: AgentEntry | None = None
    learns: Literal["online", "environment"] = "online"
    reward: Literal["quality", "learning"] = "quality"

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return slug(self.label)


@dataclass(frozen=True, config=_STRICT)
class TextEntry:
    """What the language model reads.

    Attributes:
        source: A shipped source of bytes, or a file or folder.
        ctx: Bytes of a chunk.
        chunks: Chunks of a stream, one update each.
        evaluation_streams: Streams of the evaluation split that models are judged by.
    """

    source: str = "text"
    ctx: PositiveInt = 256
    chunks: PositiveInt = 4
    evaluation_streams: PositiveInt = 32


@dataclass(frozen=True, config=_STRICT)
class Plan:
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
        varied: Share of the updates of ``focus`` and ``integrated`` variants that are made at
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
    variants: Annotated[tuple[VariantEntry, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    updates: PositiveInt = 600
    batch: PositiveInt = 16
    learning_rate: Positive = 2e-3
    evaluations: PositiveInt = 6
    varied: Annotated[float, Field(ge=0, lt=1)] = 0.25
    agent_steps: PositiveInt = 8192
    model: ModelEntry = field(default_factory=ModelEntry)
    recordings: str = ""
    speech: SpokenSpeech = field(default_factory=SpokenSpeech)
    masking: Share = 0.3
    text: TextEntry = field(default_factory=TextEntry)
    device: str = "cpu"

    @property
    def chunks(self) -> int:
        """Chunks of a stream, one update each."""
        return self.text.chunks if self.task == "text" else 1

    @property
    def laws(self) -> dict[str, str]:
        """Labels of hybrid variants, by which temperature laws are compared, and their laws."""
        return {
            each.label: "sharper for longer" if each.sharpen else "sharper for shorter"
            for each in self.variants
            if each.attention == "hybrid" and not each.soft_span and not each.heads
        }

    @property
    def alone(self) -> dict[str, str]:
        """Labels of variants with an agent, each with that of the same layer without one."""
        return {
            each.label: other.label
            for each in self.variants
            for other in self.variants
            if each.agent is not None
            and other.agent is None
            and not other.soft_span
            and (each.attention, each.heads, each.sharpen)
            == (other.attention, other.heads, other.sharpen)
        }

    def to_toml(self) -> str:
        """The plan as TOML, everything spelt out."""
        content = TypeAdapter(Plan).dump_python(self, mode="json", exclude_none=True)
        return tomli_w.dumps(content)
