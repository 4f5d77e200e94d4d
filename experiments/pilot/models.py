"""The models of a pilot: small transformers of one size, each about one kind of attention."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from spangym.attention import IntegratedAttention, LayerCache, LayerOutput
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.env_config import full_qk_pairs
from spangym.envs.model.stack import LayerStack
from spangym.envs.state import concat_trees
from spangym.experiments.pilot.attentions import Attention, PlainAttention, make_attention
from spangym.experiments.pilot.corpus import BLANK
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig

MELS = 80
"""Channels of a log-mel frame."""
STRIDE = 4
"""Frames that the convolutional front makes one token of: 25 tokens a second."""
_MIN_STD = 0.1
"""Of a channel's log-mel energy, lest silence is blown up."""


class AttentionOutput(NamedTuple):
    """What a model's attention did in one layer.

    Attributes:
        output: Shape (batch, tokens, dims).
        qk_pairs: Query-key pairs scored by both paths, shape (batch,).
        layer_output: All that a layer of two paths says; None of plain attention.
    """

    output: Tensor
    qk_pairs: Tensor
    layer_output: LayerOutput | None

    @property
    def cache(self) -> LayerCache | None:
        """What the next pass on the same stream is handed."""
        return None if self.layer_output is None else self.layer_output.cache


class PilotModel(nn.Module, ABC):
    """A front, blocks of attention and feed-forward each with its residual, and a head.

    Args:
        config: Sizes.
        attentions: The attention of each block.
        frontend: Turns content into tokens of width ``dims``.
        hidden: Width of the feed-forward parts.
        num_classes: What the head tells apart.
        causal: Whether a token sees none after it.
    """

    def __init__(
        self,
        config: ModelConfig,
        attentions: Sequence[Attention],
        frontend: nn.Module,
        hidden: int,
        num_classes: int,
        causal: bool,
    ) -> None:
        super().__init__()
        dims = config.dims
        self.frontend = frontend
        self.attentions = nn.ModuleList(attentions)
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dims), nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, dims)
            )
            for _ in attentions
        )
        self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, num_classes))
        self.dims = dims
        self.num_classes = num_classes
        self.causal = causal

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    @property
    def num_layers(self) -> int:
        """How many blocks there are."""
        return len(self.attentions)

    def attention(self, index: int) -> Attention:
        """The attention of a block."""
        return cast(Attention, self.attentions[index])

    def full_qk_pairs(self, ctx: int) -> int:
        """Query-key pairs of one pass of full attention over so many tokens."""
        return full_qk_pairs(ctx, self.causal)

    def embed(self, content: Tensor) -> Tensor:
        """Tokens with their positions, shape (batch, tokens, dims)."""
        tokens = self.frontend(content)
        return tokens + sinusoidal_positions(tokens.shape[1], self.dims).to(tokens)

    def attend(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> AttentionOutput:
        """Run the attention of a block.

        Args:
            index: Of the block.
            hidden: Its input, shape (batch, tokens, dims).
            actions: Integers 0..9 of shape (batch,); the layer decides itself if None.
            cache: What the layer kept of the chunk before.
        """
        attention = self.attention(index)
        full = self.full_qk_pairs(hidden.shape[1])
        if isinstance(attention, PlainAttention):
            return AttentionOutput(attention(hidden), hidden.new_full((len(hidden),), full), None)
        if attention.single_span_per_batch:
            # It would use keys and values of other batch elements.
            cache = None
        if attention.single_span_per_batch and not self.training:
            # How well it does is not to hang on how many others are judged.
            outcomes = [attention.step(hidden[index : index + 1]) for index in range(len(hidden))]
            layer_output = LayerOutput(**vars(concat_trees(outcomes)))
        elif actions is None:
            layer_output = attention.step(hidden, cache=cache)
        else:
            assert isinstance(attention, IntegratedAttention)
            layer_output = attention.forward_with_action(hidden, actions, cache=cache)
        qk_pairs = layer_output.qk_pairs.expand(len(hidden)) + full
        return AttentionOutput(layer_output.output, qk_pairs, layer_output)

    def apply_residual_ffn(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Add what the attention gave, then what the feed-forward part gives."""
        hidden = hidden + output
        return hidden + self.feed_forward[index](hidden)

    def forward(self, content: Tensor) -> Tensor:
        """Read content whose spans the layers decide themselves.

        Args:
            content: As `embed` takes it.

        Returns:
            What `losses` and the head take, shape (batch, tokens, dims).
        """
        hidden = self.embed(content)
        for index in range(self.num_layers):
            hidden = self.apply_residual_ffn(index, hidden, self.attend(index, hidden).output)
        return hidden

    @abstractmethod
    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Loss of each batch element in bits a target, shape (batch,).

        Args:
            hidden: What left the last block, shape (batch, tokens, dims).
            targets: Classes, int64 of shape (batch, tokens); `NO_TARGET` where there is none.
        """


class SpeechModel(PilotModel):
    """A recognizer of characters by connectionist temporal classification.

    Graves et al., Connectionist Temporal Classification, 2006.
    """

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """CTC loss of each utterance in bits a character, shape (batch,).

        Targets stand together at the beginning of their rows.
        """
        logits = self.head(hidden).log_softmax(-1).transpose(0, 1)
        counts = (targets != NO_TARGET).sum(1)
        tokens = torch.full_like(counts, len(logits))
        losses = nn.functional.ctc_loss(
            logits, targets.clamp_min(BLANK), tokens, counts, BLANK, reduction="none"
        )
        return losses / counts.clamp_min(1) / math.log(2)

    def greedy_decode_ids(self, hidden: Tensor) -> Tensor:
        """The most probable class at each token, int64 of shape (batch, tokens)."""
        return self.head(hidden).argmax(-1)


class TextModel(PilotModel):
    """A language model on bytes."""

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each batch element in bits a byte, shape (batch,)."""
        logits = self.head(hidden).transpose(1, 2)
        losses = nn.functional.cross_entropy(
            logits, targets, ignore_index=NO_TARGET, reduction="none"
        )
        return losses.sum(1) / (targets != NO_TARGET).sum(1).clamp_min(1) / math.log(2)


class ConvFrontend(nn.Module):
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
        """Frames of four at a time, (batch, tokens, 4 * MELS), to (batch, tokens, dims)."""
        frames = content.unflatten(2, (STRIDE, MELS)).flatten(1, 2)
        std, mean = torch.std_mean(frames, dim=1, keepdim=True)
        frames = (frames - mean) / (std + _MIN_STD)
        halved = nn.functional.gelu(self.first(frames.transpose(1, 2)))
        tokens = nn.functional.gelu(self.second(halved))
        return self.ln(self.third(tokens).transpose(1, 2))


class ModelStack(LayerStack):
    """A pilot's model as an environment takes it: its layers are live, and may be training.

    Args:
        model: A model whose attention is `IntegratedAttention` throughout.
    """

    def __init__(self, model: PilotModel) -> None:
        super().__init__([cast(IntegratedAttention, each) for each in model.attentions])
        self.model = model
        self.num_classes = model.num_classes

    def embed(self, content: Tensor) -> Tensor:
        """Turn a chunk of content into the first layer's input."""
        return self.model.embed(content)

    def connect(self, index: int, hidden: Tensor, outcome: LayerOutput) -> Tensor:
        """Go on behind a layer as the model does."""
        return self.model.apply_residual_ffn(index, hidden, outcome.output)

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The model's loss, shape (batch,)."""
        return self.model.losses(hidden, targets)


def sinusoidal_positions(tokens: int, dims: int) -> Tensor:
    """Sinusoids of the positions (Vaswani et al., Attention Is All You Need, 2017).

    Returns:
        Shape (tokens, dims), float32.
    """
    rates = torch.exp(torch.arange(0, dims, 2) * (-math.log(10_000) / dims))
    angles = torch.arange(tokens)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dims]


def make_model(
    task: Literal["speech", "text"],
    config: ModelConfig,
    variant: VariantConfig,
    num_classes: int,
    ctx: int,
    seed: int,
) -> PilotModel:
    """A model of the study's size with a variant's attention.

    All variants have as many parameters as the one with plain attention, to half a percent: what
    their attention has more, their feed-forward parts have less.

    Args:
        task: What it is to learn.
        config: Sizes.
        variant: Its attention.
        num_classes: What is told apart.
        ctx: Longest sequence, in tokens.
        seed: Of the weights; torch's global generator is left as it was.

    Raises:
        ValueError: Its attention alone has more parameters than that.
    """
    causal = task == "text"
    model_class = TextModel if task == "text" else SpeechModel

    def build(hidden: int, attention: Callable[[], Attention]) -> PilotModel:
        frontend = nn.Embedding(BYTES, config.dims) if task == "text" else ConvFrontend(config.dims)
        attentions = [attention() for _ in range(config.num_layers)]
        return model_class(config, attentions, frontend, hidden, num_classes, causal)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        baseline_size = num_parameters(
            build(config.hidden, lambda: PlainAttention(config.dims, config.heads, causal))
        )
        variant_size = num_parameters(
            build(1, lambda: make_attention(config, variant, ctx, causal))
        )
        hidden = 1 + round(
            (baseline_size - variant_size) / (config.num_layers * (2 * config.dims + 1))
        )
        if hidden < 1:
            raise ValueError(
                f"variant {variant.name!r} has {variant_size - baseline_size:,} parameters more than plain "
                "attention even without its feed-forward parts: raise hidden"
            )
        torch.manual_seed(seed)
        return build(hidden, lambda: make_attention(config, variant, ctx, causal))


def num_parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(each.numel() for each in model.parameters())
