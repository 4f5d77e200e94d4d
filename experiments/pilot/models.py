"""The models of a pilot: small transformers of one size, each about one kind of attention."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from spangym.attention import IntegratedAttention, LayerCache, Outcome
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.env_config import full_keys
from spangym.envs.model.stack import Stack
from spangym.envs.state import joined
from spangym.experiments.pilot.attentions import Attention, PlainAttention, make_attention
from spangym.experiments.pilot.corpus import BLANK
from spangym.experiments.pilot.pilot_study import ModelEntry, VariantEntry

MELS = 80
"""Channels of a log-mel frame."""
STRIDE = 4
"""Frames that the convolutional front makes one token of: 25 tokens a second."""
_LEAST_DEVIATION = 0.1
"""Of a channel's log-mel energy, lest silence is blown up."""


class Attended(NamedTuple):
    """What a model's attention did in one layer.

    Attributes:
        output: Shape (lanes, tokens, dims).
        visited_keys: Query-key pairs scored by both paths, shape (lanes,).
        outcome: All that a layer of two paths says; None of plain attention.
    """

    output: Tensor
    visited_keys: Tensor
    outcome: Outcome | None

    @property
    def cache(self) -> LayerCache | None:
        """What the next pass on the same stream is handed."""
        return None if self.outcome is None else self.outcome.cache


class PilotModel(nn.Module, ABC):
    """A front, blocks of attention and feed-forward each with its residual, and a head.

    Args:
        entry: Sizes.
        attentions: The attention of each block.
        front: Turns content into tokens of width ``dims``.
        hidden: Width of the feed-forward parts.
        classes: What the head tells apart.
        causal: Whether a token sees none after it.
    """

    def __init__(
        self,
        entry: ModelEntry,
        attentions: Sequence[Attention],
        front: nn.Module,
        hidden: int,
        classes: int,
        causal: bool,
    ) -> None:
        super().__init__()
        dims = entry.dims
        self.front = front
        self.attentions = nn.ModuleList(attentions)
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dims), nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, dims)
            )
            for _ in attentions
        )
        self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, classes))
        self.dims = dims
        self.classes = classes
        self.causal = causal

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    @property
    def layers(self) -> int:
        """How many blocks there are."""
        return len(self.attentions)

    def attention(self, index: int) -> Attention:
        """The attention of a block."""
        return cast(Attention, self.attentions[index])

    def full_keys(self, ctx: int) -> int:
        """Query-key pairs of one pass of full attention over so many tokens."""
        return full_keys(ctx, self.causal)

    def embed(self, content: Tensor) -> Tensor:
        """Tokens with their positions, shape (lanes, tokens, dims)."""
        tokens = self.front(content)
        return tokens + positions(tokens.shape[1], self.dims).to(tokens)

    def attend(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Attended:
        """Run the attention of a block.

        Args:
            index: Of the block.
            hidden: Its input, shape (lanes, tokens, dims).
            actions: Integers 0..9 of shape (lanes,); the layer decides itself if None.
            cache: What the layer kept of the chunk before.
        """
        attention = self.attention(index)
        full = self.full_keys(hidden.shape[1])
        if isinstance(attention, PlainAttention):
            return Attended(attention(hidden), hidden.new_full((len(hidden),), full), None)
        if attention.batch_is_one:
            # It would use keys and values of other lanes.
            cache = None
        if attention.batch_is_one and not self.training:
            # How well it does is not to hang on how many others are judged.
            lanes = [attention.step(hidden[lane : lane + 1]) for lane in range(len(hidden))]
            outcome = Outcome(**vars(joined(lanes)))
        elif actions is None:
            outcome = attention.step(hidden, cache=cache)
        else:
            assert isinstance(attention, IntegratedAttention)
            outcome = attention.outcome(hidden, actions, cache=cache)
        visited = outcome.visited_keys.expand(len(hidden)) + full
        return Attended(outcome.output, visited, outcome)

    def follow(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Add what the attention gave, then what the feed-forward part gives."""
        hidden = hidden + output
        return hidden + self.feed_forward[index](hidden)

    def forward(self, content: Tensor) -> Tensor:
        """Read content whose spans the layers decide themselves.

        Args:
            content: As `embed` takes it.

        Returns:
            What `losses` and the head take, shape (lanes, tokens, dims).
        """
        hidden = self.embed(content)
        for index in range(self.layers):
            hidden = self.follow(index, hidden, self.attend(index, hidden).output)
        return hidden

    @abstractmethod
    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Loss of each lane in bits a target, shape (lanes,).

        Args:
            hidden: What left the last block, shape (lanes, tokens, dims).
            targets: Classes, int64 of shape (lanes, tokens); `NO_TARGET` where there is none.
        """


class SpeechModel(PilotModel):
    """A recogniser of characters by connectionist temporal classification.

    Graves et al., Connectionist Temporal Classification, 2006.
    """

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """CTC loss of each utterance in bits a character, shape (lanes,).

        Targets stand together at the beginning of their rows.
        """
        logits = self.head(hidden).log_softmax(-1).transpose(0, 1)
        counts = (targets != NO_TARGET).sum(1)
        tokens = torch.full_like(counts, len(logits))
        losses = nn.functional.ctc_loss(
            logits, targets.clamp_min(BLANK), tokens, counts, BLANK, reduction="none"
        )
        return losses / counts.clamp_min(1) / math.log(2)

    def best(self, hidden: Tensor) -> Tensor:
        """The most probable class at each token, int64 of shape (lanes, tokens)."""
        return self.head(hidden).argmax(-1)


class TextModel(PilotModel):
    """A language model on bytes."""

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each lane in bits a byte, shape (lanes,)."""
        logits = self.head(hidden).transpose(1, 2)
        losses = nn.functional.cross_entropy(
            logits, targets, ignore_index=NO_TARGET, reduction="none"
        )
        return losses.sum(1) / (targets != NO_TARGET).sum(1).clamp_min(1) / math.log(2)


class SpeechFront(nn.Module):
    """Two convolutions over time that make a token of four frames, and one over tokens.

    Each channel of a recording is first brought to mean 0 and deviation 1, which takes away much of
    what is the microphone's and the voice's; without that training took twice as many updates. A
    token knows of half a second around it: where it knew of a third of that, models whose attention
    has to learn to look further took twice as many.

    Args:
        dims: Width of the tokens.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, dims, 9, stride=2, padding=4)
        self.second = nn.Conv1d(dims, dims, 9, stride=2, padding=4)
        self.third = nn.Conv1d(dims, dims, 7, padding=3)
        self.ln = nn.LayerNorm(dims)

    def forward(self, content: Tensor) -> Tensor:
        """Frames of four at a time, (lanes, tokens, 4 * MELS), to (lanes, tokens, dims)."""
        frames = content.unflatten(2, (STRIDE, MELS)).flatten(1, 2)
        deviation, mean = torch.std_mean(frames, dim=1, keepdim=True)
        frames = (frames - mean) / (deviation + _LEAST_DEVIATION)
        halved = nn.functional.gelu(self.first(frames.transpose(1, 2)))
        tokens = nn.functional.gelu(self.second(halved))
        return self.ln(self.third(tokens).transpose(1, 2))


class ControlledStack(Stack):
    """A pilot's model as an environment takes it: its layers are live, and may be training.

    Args:
        model: A model whose attention is `IntegratedAttention` throughout.
    """

    def __init__(self, model: PilotModel) -> None:
        super().__init__([cast(IntegratedAttention, each) for each in model.attentions])
        self.model = model
        self.classes = model.classes

    def embed(self, content: Tensor) -> Tensor:
        """Turn a chunk of content into the first layer's input."""
        return self.model.embed(content)

    def follow(self, index: int, hidden: Tensor, outcome: Outcome) -> Tensor:
        """Go on behind a layer as the model does."""
        return self.model.follow(index, hidden, outcome.output)

    def bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, shape (lanes,)."""
        return self.model.losses(hidden, targets)


def positions(tokens: int, dims: int) -> Tensor:
    """Sinusoids of the positions (Vaswani et al., Attention Is All You Need, 2017).

    Returns:
        Shape (tokens, dims), float32.
    """
    rates = torch.exp(torch.arange(0, dims, 2) * (-math.log(10_000) / dims))
    angles = torch.arange(tokens)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dims]


def make_model(
    task: Literal["speech", "text"],
    entry: ModelEntry,
    variant: VariantEntry,
    classes: int,
    ctx: int,
    seed: int,
) -> PilotModel:
    """A model of the plan's size with a variant's attention.

    All variants have as many parameters as the one with plain attention, to half a percent: what
    their attention has more, their feed-forward parts have less.

    Args:
        task: What it is to learn.
        entry: Sizes.
        variant: Its attention.
        classes: What is told apart.
        ctx: Longest sequence, in tokens.
        seed: Of the weights; torch's global generator is left as it was.

    Raises:
        ValueError: Its attention alone has more parameters than that.
    """
    causal = task == "text"
    kind = TextModel if task == "text" else SpeechModel

    def made(hidden: int, attention: Callable[[], Attention]) -> PilotModel:
        front = nn.Embedding(BYTES, entry.dims) if task == "text" else SpeechFront(entry.dims)
        attentions = [attention() for _ in range(entry.layers)]
        return kind(entry, attentions, front, hidden, classes, causal)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = count_parameters(
            made(entry.hidden, lambda: PlainAttention(entry.dims, entry.heads, causal))
        )
        own = count_parameters(made(1, lambda: make_attention(entry, variant, ctx, causal)))
        hidden = 1 + round((plain - own) / (entry.layers * (2 * entry.dims + 1)))
        if hidden < 1:
            raise ValueError(
                f"variant {variant.label!r} has {own - plain:,} parameters more than plain "
                "attention even without its feed-forward parts: raise hidden"
            )
        torch.manual_seed(seed)
        return made(hidden, lambda: make_attention(entry, variant, ctx, causal))


def count_parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(each.numel() for each in model.parameters())
