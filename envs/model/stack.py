"""Stacks of live layers, with everything before, between and after them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from spangym.attention import (
    IntegratedAttention,
    LayerCache,
    LayerOutput,
    LocalGlobalAttention,
    SpanConfig,
)
from spangym.attention.geometry import full_qk_pairs
from spangym.attention.layers.local_global import PreparedInput
from spangym.attention.layers.modules import ProjectionModule, init_linear, init_projection
from spangym.attention.temperature import TemperatureLaw
from spangym.envs.data.dataset import BYTES, NO_TARGET
from spangym.envs.state import Cache, Prepared, concat_trees, select_row
from spangym.utils.scalars import NonNegativeFloat, PositiveInt, normalize_fields


class LayerStack(nn.Module, ABC):
    """Live layers, an embedding before them, connections between them and a loss after them.

    Args:
        layers: The layers, all of one width.
        frontend: Module that `embed` uses; its parameters come before those of the layers.

    Attributes:
        num_classes: Number of target classes of `loss_bits`; 0 for a stack without a task.
        native_layers: Whether the layers are of `spangym.attention`: they have span predictors and
            soft edges, and give statistics of their attention weights.
        is_batch_invariant: Whether a sequence gives the same bits in a batch of any size on the
            CPU; None if that depends on the shape (`spangym.envs.transition.is_batch_invariant`).
    """

    num_classes: int = 0
    native_layers: bool = True
    is_batch_invariant: bool | None = None

    def __init__(self, layers: Sequence[nn.Module], frontend: nn.Module | None = None) -> None:
        super().__init__()
        if frontend is not None:
            self.frontend = frontend
        self.layers = nn.ModuleList(layers)

    @property
    def device(self) -> torch.device:
        """Device of the layers."""
        return next(self.parameters()).device

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def layer(self, index: int) -> LocalGlobalAttention:
        """Return one layer."""
        return cast(LocalGlobalAttention, self.layers[index])

    def run_layer(
        self,
        index: int,
        hidden: Tensor,
        actions: Tensor | None = None,
        *,
        num_actions: int | None = None,
        recompute_kv: Tensor | None = None,
        cache: LayerCache | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run layer `index`; batch elements are independent.

        Args:
            index: Index of the layer.
            hidden: Input of the layer, shape (batch, tokens, dims).
            actions: Integers in ``0..num_actions - 1`` of shape (batch,); the span predictor
                decides if None.
            num_actions: Number of actions; that of the layer if None.
            recompute_kv: Whether to recompute keys, and values, boolean of shape (batch, 2); the
                layer decides if None: by default it recomputes all.
            cache: Cache of the layer's previous chunk; None at the start of a stream.
            return_stats: Whether to return statistics of the local attention weights.
        """
        prepared = self.prepare_layer(index, hidden, recompute_kv=recompute_kv, cache=cache)
        return self.run_prepared(
            index, prepared, actions, num_actions=num_actions, return_stats=return_stats
        )

    def prepare_layer(
        self,
        index: int,
        hidden: Tensor,
        *,
        recompute_kv: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Prepared:
        """Run the part of layer `index` that does not depend on its span; see `run_layer`."""
        layer = self.layer(index)

        def prepare(
            hidden: Tensor, recompute_kv: Tensor | None, cache: LayerCache | None
        ) -> PreparedInput:
            return layer.prepare(hidden, recompute_kv=recompute_kv, cache=cache)

        arguments = (hidden, recompute_kv, cast(LayerCache | None, cache))
        if not layer.single_span_per_batch:
            return prepare(*arguments)
        rows = range(len(hidden))
        return concat_trees([prepare(*select_row(arguments, row)) for row in rows])

    def run_prepared(
        self,
        index: int,
        prepared: Prepared,
        actions: Tensor | None = None,
        *,
        num_actions: int | None = None,
        return_stats: bool = False,
    ) -> LayerOutput:
        """Run the rest of layer `index` after `prepare_layer`; see `run_layer`."""
        layer, prepared = self.layer(index), cast(PreparedInput, prepared)

        def run(prepared: PreparedInput, actions: Tensor | None) -> LayerOutput:
            return layer.forward_prepared(
                prepared, actions, num_actions=num_actions, return_stats=return_stats
            )

        if not layer.single_span_per_batch:
            return run(prepared, actions)
        rows = range(len(prepared.predicted_scale))
        return join_outputs([run(*select_row((prepared, actions), row)) for row in rows])

    def normalize_input(self, index: int, hidden: Tensor) -> Tensor:
        """Normalize the input of a layer, of which the observation is computed."""
        return self.layer(index).ln_a(hidden)

    def start_caches(self, hidden: Tensor, caches: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the layers' caches at the start of a chunk, by default those they have."""
        del hidden
        return caches

    def carry(self, caches: tuple[Any, ...], index: int, cache: Any) -> tuple[Any, ...]:
        """Return the layers' caches after layer ``index``, which by default keeps its own."""
        return (*caches[:index], cache, *caches[index + 1 :])

    def full_qk_pairs(self, index: int, ctx: int) -> int:
        """Return the query-key pairs of one pass of full attention in layer ``index``."""
        return full_qk_pairs(ctx, self.layer(index).config.causal)

    def run_full_span(self, index: int, prepared: Prepared, num_actions: int) -> LayerOutput:
        """Run the rest of layer `index` at full span, which the last action means."""
        scale = cast(PreparedInput, prepared).predicted_scale
        actions = torch.full((len(scale),), num_actions - 1, device=scale.device)
        return self.run_prepared(index, prepared, actions, num_actions=num_actions)

    def keep_full_output(self, prepared: Prepared, layer_output: LayerOutput) -> Prepared:
        """Return what was prepared with the output at full span, if that can be used again."""
        del layer_output
        return prepared

    @abstractmethod
    def embed(self, content: Tensor) -> Tensor:
        """Embed a chunk of content as the first layer's input.

        Args:
            content: Bytes, int64 of shape (batch, tokens), or frames, float32 of shape
                (batch, tokens, channels).

        Returns:
            Shape (batch, tokens, dims).
        """

    def connect(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Return the next layer's input: by default the output of layer ``index``.

        ``hidden`` and ``output``, its input and output, have shape (batch, tokens, dims).
        """
        del index, hidden
        return output

    def outputs(self, hidden: Tensor) -> Tensor:
        """Return the final outputs, which `RewardContext.infidelity` compares.

        Args:
            hidden: Output of the last layer, shape (batch, tokens, dims).

        Returns:
            Shape (batch, tokens, numbers); by default ``hidden``.
        """
        return hidden

    def step_loss(
        self, index: int, layer_output: LayerOutput, hidden: Tensor, targets: Tensor
    ) -> Tensor | None:
        """Return the loss after layer ``index``, by default `loss_bits` after the last one.

        Args:
            index: Index of the layer.
            layer_output: Its output.
            hidden: Input of the next layer.
            targets: See `loss_bits`.

        Returns:
            Shape (batch,); None where there is no loss.
        """
        del layer_output
        return self.loss_bits(hidden, targets) if index + 1 == self.num_layers else None

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the task loss of each batch element, in bits a target, shape (batch,).

        Args:
            hidden: Output of the last layer, shape (batch, tokens, dims).
            targets: Classes, int64 of shape (batch, tokens); `NO_TARGET` where there is none.

        Raises:
            NotImplementedError: The stack has no task.
        """
        raise NotImplementedError(f"{type(self).__name__} has classes, but no loss_bits()")


class AttentionOnlyStack(LayerStack):
    """Layers without residual connections on a fixed embedding.

    Args:
        layers: The layers.
        embedding: Shape (256, dims), or (channels, dims) for frames, which it projects.
    """

    embedding: Tensor

    def __init__(self, layers: Sequence[LocalGlobalAttention], embedding: Tensor) -> None:
        super().__init__(layers)
        embedding = embedding.to(layers[0].projection.weight)
        self.register_buffer("embedding", embedding, persistent=False)

    def embed(self, content: Tensor) -> Tensor:
        """Look up bytes, or project frames."""
        if content.dtype == torch.int64:
            return self.embedding[content]
        return content.to(self.embedding.dtype) @ self.embedding


class ResidualTransformer(LayerStack):
    """Blocks of attention and feed-forward with residual connections, and a classification head.

    Subclasses call `add_feed_forward` once their other modules are there.
    """

    feed_forward: nn.ModuleList
    head: nn.Sequential

    def add_feed_forward(self, dims: int, hidden: int, num_classes: int) -> None:
        """Add the feed-forward parts, of width ``hidden``, and the head."""
        self.num_classes = num_classes
        self.feed_forward = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dims), nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, dims)
            )
            for _ in self.layers
        )
        self.head = nn.Sequential(nn.LayerNorm(dims), nn.Linear(dims, num_classes))

    def connect(self, index: int, hidden: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output, then the feed-forward part's."""
        hidden = hidden + output
        return hidden + self.feed_forward[index](hidden)

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy of each batch element, in bits a target, shape (batch,)."""
        logits = self.head(hidden).transpose(1, 2)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        return losses.sum(1) / (targets != NO_TARGET).sum(1).clamp_min(1) / math.log(2)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `TransformerStack`.

    Attributes:
        num_layers: Number of blocks.
        dims: Width.
        heads: Attention heads of a block; half of the local heads are induction heads.
        ctx: Longest chunk, in tokens.
        win_size: Window at the longest span, in tokens.
        max_span: Longest span, in tokens.
        causal: Whether a token attends only to itself and earlier tokens.
        hidden: Width of the feed-forward parts.
        num_classes: Number of target classes.
        temperature_law: Name of the temperature law (`spangym.attention.temperature`).
        temp_scale: Strength of the temperature law.
    """

    num_layers: PositiveInt = 2
    dims: PositiveInt = 64
    heads: PositiveInt = 4
    ctx: PositiveInt = 256
    win_size: PositiveInt = 32
    max_span: PositiveInt = 288
    causal: bool = True
    hidden: PositiveInt = 128
    num_classes: PositiveInt = BYTES
    temperature_law: TemperatureLaw = "none"
    temp_scale: NonNegativeFloat = 0.01

    def __post_init__(self) -> None:
        normalize_fields(self)

    @property
    def max_dist(self) -> int:
        """Upper bound on the span, in tokens, which is the longest span."""
        return self.max_span


class TransformerStack(ResidualTransformer):
    """A small transformer on bytes with learned positions.

    Local paths have learned projections, one refinement pass and induction heads in half of their
    heads, so that a long span pays (`spangym.attention.SlidingWindowAttention`). Actions are
    fractions of the longest span. Initial weights are larger than the original's
    (`IntegratedAttention`) in the global path's output projection, so that the stack learns faster.

    Args:
        config: Sizes.
        generator: Source of the initial weights; torch's default generator if None.
    """

    def __init__(self, config: TransformerConfig, generator: torch.Generator | None = None) -> None:
        span_config = SpanConfig(
            win_size=config.win_size,
            max_span=config.max_span,
            max_dist=config.max_span,
            temp_scale=config.temp_scale,
            temperature_law=config.temperature_law,
            causal=config.causal,
            action_scale="absolute",
            local_projections=True,
            num_refinement_steps=1,
            num_induction_heads=config.heads // 2,
        )
        sizes = (config.ctx, config.dims, config.heads, span_config)
        layers = range(config.num_layers)
        super().__init__([IntegratedAttention(*sizes, generator=torch.Generator()) for _ in layers])
        for layer in self.layers:
            _draw_trainable_weights(layer, generator)
        self.config = config
        # Modules draw default weights from the global generator before they are drawn again below.
        with torch.random.fork_rng(devices=[]):
            self.tokens = nn.Embedding(BYTES, config.dims)
            self.positions = nn.Parameter(torch.zeros(config.ctx, config.dims))
            self.add_feed_forward(config.dims, config.hidden, config.num_classes)
        nn.init.normal_(self.tokens.weight, generator=generator)
        for part in (self.feed_forward, self.head):
            draw_linear_weights(part, generator)

    def embed(self, content: Tensor) -> Tensor:
        """Embed bytes at their positions."""
        return self.tokens(content) + self.positions[: content.shape[1]]


def _draw_trainable_weights(layer: nn.Module, generator: torch.Generator | None) -> None:
    """Draw initial weights that learn fast, unlike the original's small output projections."""
    modules = [*layer.modules()]
    projections = {each.proj for each in modules if isinstance(each, ProjectionModule)}
    for module in modules:
        if isinstance(module, nn.Linear):
            draw = init_projection if module in projections else init_linear
            draw(module, generator)


def join_outputs(outputs: list[LayerOutput]) -> LayerOutput:
    """Join the outputs of single batch elements into one batch."""
    # The original layer's own output class would take them for one batch element again.
    return LayerOutput(**vars(concat_trees(outputs)))


def draw_linear_weights(model: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the initial weights of all linear layers in a model, in its order; biases are 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
