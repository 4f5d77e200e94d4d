"""The models of a pilot: small transformers of one size that differ in their attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from spangym.attention import IntegratedAttention, LayerCache, LayerOutput
from spangym.attention.geometry import full_qk_pairs
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.data.log_mel import MELS
from spangym.envs.model.stack import ResidualTransformer, join_outputs
from spangym.experiments.pilot.attentions import Attention, PlainAttention, make_attention
from spangym.experiments.pilot.corpus import BLANK
from spangym.experiments.pilot.pilot_study import ModelConfig, VariantConfig

STRIDE = 4
"""Frames that the convolutional front end joins to one token: 25 tokens a second."""

_MIN_STD = 0.1
"""Smallest standard deviation of a log-mel channel, so that silence is not amplified."""


class AttentionOutput(NamedTuple):
    """Output of one block's attention, shape (batch, tokens, dims).

    ``qk_pairs`` were scored by all paths, shape (batch,); plain attention has no ``layer_output``.
    """

    output: Tensor
    qk_pairs: Tensor
    layer_output: LayerOutput | None


@dataclass
class ModelDecodingCache:
    """What `PilotModel.decode` keeps of the tokens so far.

    Attributes:
        num_tokens: Number of tokens decoded so far.
        attentions: Cache of the attention of each block; None before the first token.
    """

    num_tokens: int
    attentions: list[Any]

    @property
    def nbytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(each.nbytes for each in self.attentions)


class PilotModel(ResidualTransformer):
    """A front end, sinusoidal positions, residual blocks and a classification head.

    It is a language model on bytes, with its loss in bits a byte, unless a subclass says otherwise.
    A model of `IntegratedAttention` can be the layer stack of an environment.
    """

    frontend: nn.Module

    def __init__(
        self,
        config: ModelConfig,
        attentions: Sequence[Attention],
        frontend: nn.Module,
        hidden: int,
        num_classes: int,
        causal: bool,
    ) -> None:
        super().__init__(attentions, frontend)
        self.add_feed_forward(config.dims, hidden, num_classes)
        self.dims = config.dims
        self.causal = causal

    def attention(self, index: int) -> Attention:
        """Return the attention of a block."""
        return cast(Attention, self.layers[index])

    def embed(self, content: Tensor, first: int = 0) -> Tensor:
        """Embed content from a position on, shape (batch, tokens, dims)."""
        tokens = self.frontend(content)
        return tokens + sinusoidal_positions(tokens.shape[1], self.dims, first).to(tokens)

    def attend(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> AttentionOutput:
        """Run the attention of block `index`; see `run_layer` for the arguments."""
        attention = self.attention(index)
        pairs = self._global_qk_pairs(attention, hidden.shape[1])
        if isinstance(attention, PlainAttention):
            return AttentionOutput(attention(hidden), hidden.new_full((len(hidden),), pairs), None)
        if attention.single_span_per_batch:
            # The cache of the original layer mixes batch elements.
            cache = None
        if attention.single_span_per_batch and not self.training:
            # Evaluation must not depend on the batch size.
            layer_output = join_outputs([attention.step(row[None]) for row in hidden])
        elif actions is None:
            layer_output = attention.step(hidden, cache=cache)
        else:
            assert isinstance(attention, IntegratedAttention)
            layer_output = attention.forward_with_action(hidden, actions, cache=cache)
        qk_pairs = layer_output.qk_pairs.expand(len(hidden)) + pairs
        return AttentionOutput(layer_output.output, qk_pairs, layer_output)

    def _global_qk_pairs(self, attention: Attention, tokens: int) -> int:
        """Query-key pairs of full attention, or of what replaces it in the global path."""
        if isinstance(attention, PlainAttention) or attention.config.global_path == "full":
            return full_qk_pairs(tokens, self.causal)
        return 0 if attention.attn_global is None else attention.attn_global.qk_pairs(tokens)

    def forward(self, content: Tensor) -> Tensor:
        """Read content at the layers' own spans; returns the last block's output."""
        hidden = self.embed(content)
        for index in range(self.num_layers):
            hidden = self.connect(index, hidden, self.attend(index, hidden).output)
        return hidden

    @torch.no_grad()
    def decode(
        self, content: Tensor, cache: ModelDecodingCache | None = None
    ) -> tuple[Tensor, ModelDecodingCache]:
        """Read the next bytes of texts, with shapes and result of `forward`, and update the cache.

        The layers, or the controllers in them, set the spans. Raises a ValueError for a model that
        is not causal.
        """
        if cache is None:
            cache = ModelDecodingCache(0, [None] * self.num_layers)
        hidden = self.embed(content, cache.num_tokens)
        for index in range(self.num_layers):
            output, cache.attentions[index] = self.attention(index).decode(
                hidden, cache.attentions[index]
            )
            hidden = self.connect(index, hidden, output)
        cache.num_tokens += content.shape[1]
        return hidden, cache


class SpeechModel(PilotModel):
    """A recognizer of characters, with the CTC loss (Graves et al., 2006)."""

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the CTC loss of each utterance in bits a character, shape (batch,).

        Targets are left-aligned in their rows.
        """
        logits = self.head(hidden).log_softmax(-1).transpose(0, 1)
        counts = (targets != NO_TARGET).sum(1)
        tokens = torch.full_like(counts, len(logits))
        losses = nn.functional.ctc_loss(
            logits, targets.clamp_min(BLANK), tokens, counts, BLANK, reduction="none"
        )
        return losses / counts.clamp_min(1) / math.log(2)

    def greedy_decode_ids(self, hidden: Tensor) -> Tensor:
        """Return the most probable class of each token, int64 of shape (batch, tokens)."""
        return self.head(hidden).argmax(-1)


class ConvFrontend(nn.Module):
    """Three convolutions from log-mel frames to tokens, of four frames each.

    Each channel of a recording is normalized to mean 0 and standard deviation 1, which removes much
    of the microphone and the voice; training took twice as many updates without. A token's
    receptive field is half a second; with a third of that, models whose attention has to learn to
    look further took twice as many updates.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, dims, 9, stride=2, padding=4)
        self.second = nn.Conv1d(dims, dims, 9, stride=2, padding=4)
        self.third = nn.Conv1d(dims, dims, 7, padding=3)
        self.ln = nn.LayerNorm(dims)

    def forward(self, content: Tensor) -> Tensor:
        """Map stacked frames (batch, tokens, 4 * MELS) to tokens (batch, tokens, dims)."""
        frames = content.unflatten(2, (STRIDE, MELS)).flatten(1, 2)
        std, mean = torch.std_mean(frames, dim=1, keepdim=True)
        frames = (frames - mean) / (std + _MIN_STD)
        halved = nn.functional.gelu(self.first(frames.transpose(1, 2)))
        tokens = nn.functional.gelu(self.second(halved))
        return self.ln(self.third(tokens).transpose(1, 2))


def sinusoidal_positions(tokens: int, dims: int, first: int = 0) -> Tensor:
    """Return sinusoids of the positions (Vaswani et al., 2017), float32 of shape (tokens, dims)."""
    rates = torch.exp(torch.arange(0, dims, 2) * (-math.log(10_000) / dims))
    angles = torch.arange(first, first + tokens)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dims]


def make_model(
    task: Literal["speech", "text"],
    config: ModelConfig,
    variant: VariantConfig,
    num_classes: int,
    ctx: int,
    seed: int,
) -> PilotModel:
    """Make a model with a variant's attention; text models are causal.

    All variants have as many parameters as plain attention, to half a percent: the feed-forward
    parts of variants with larger attention are narrower. A ValueError tells that a variant's
    attention alone exceeds that size.

    Args:
        task: ``speech`` or ``text``.
        config: Sizes.
        variant: The variant.
        num_classes: Number of target classes.
        ctx: Longest sequence, in tokens.
        seed: Seed of the weights; torch's global generator is restored.
    """
    causal = task == "text"
    with torch.random.fork_rng(devices=[]):
        attention_size = num_parameters(make_attention(config, variant, ctx, causal))
        plain_size = num_parameters(PlainAttention(config.dims, config.heads, causal))
        hidden = config.hidden - round((attention_size - plain_size) / (2 * config.dims + 1))
        if hidden < 1:
            raise ValueError(
                f"the attention of variant {variant.name!r} has {attention_size - plain_size:,} "
                "parameters more than plain attention, more than its feed-forward part can lack: "
                "raise hidden"
            )
        torch.manual_seed(seed)
        frontend = nn.Embedding(BYTES, config.dims) if task == "text" else ConvFrontend(config.dims)
        attentions = [
            make_attention(config, variant, ctx, causal) for _ in range(config.num_layers)
        ]
        model_class = PilotModel if task == "text" else SpeechModel
        return model_class(config, attentions, frontend, hidden, num_classes, causal)


def num_parameters(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(each.numel() for each in model.parameters())
