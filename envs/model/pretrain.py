"""``spangym pretrain``: train an id's layers at random spans, so that they work at any span."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from spangym.attention import NUM_ACTIONS
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.sample_batch import sample_batch
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.model_optimizer import ModelOptimizer
from spangym.envs.model.pretrain_cache import CachePretrainConfig, evaluate_cache, pretrain_cache
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.envs.registration import ENVIRONMENTS, default_kwargs, full_id
from spangym.utils.errors import UserError
from spangym.utils.scalars import NonNegativeFloat, PositiveInt, normalize_fields


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Training of the layers of an id.

    Attributes:
        dataset: Name of the training dataset.
        model: Sizes of the stack.
        steps: Optimizer steps, at least 3.
        batch: Chunks in a step.
        learning_rate: Peak of a one-cycle schedule.
        p_full_span: Probability that a chunk has the full span in all layers, in place of random
            spans.
        freeze_global_qk: Whether queries and keys of the global paths keep their small initial
            weights. Such paths only average, so that retrieval is left to the local paths.
        seed: Seed of weights, batches and spans.
    """

    dataset: str
    model: TransformerConfig
    steps: Annotated[int, Interval(ge=3)]
    batch: PositiveInt = 16
    learning_rate: NonNegativeFloat = 3e-3
    p_full_span: Annotated[float, Interval(ge=0, le=1)] = 0.2
    freeze_global_qk: bool = False
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        normalize_fields(self)


def _scenario(dataset: str, steps: int, **sizes: Any) -> PretrainConfig:
    small = TransformerConfig(dims=32, ctx=128, win_size=16, max_span=144, hidden=64, num_classes=4)
    model = dataclasses.replace(small, **sizes)
    return PretrainConfig(dataset, model, steps, learning_rate=5e-3, freeze_global_qk=True)


AnyPretrainConfig = PretrainConfig | CachePretrainConfig

PRETRAIN_CONFIGS: dict[str, AnyPretrainConfig] = {
    "span-budget": PretrainConfig("mixed", TransformerConfig(), steps=3000),
    "long-range": _scenario("long-range", 600, causal=True),
    "collapse": _scenario("collapse", 600, causal=False),
    "precision": _scenario("precision", 500, causal=False),
    "hierarchy": _scenario("hierarchy", 1000, causal=True),
    "sparsity": _scenario("sparsity", 800, causal=True, win_size=8, max_span=72),
    "depth": _scenario("depth-lessons", 2000, causal=True, num_layers=6),
    "kv-cache": CachePretrainConfig("kv-cache", CacheTransformerConfig(), steps=700),
}
"""Training configurations by the name of the checkpoint."""


def get_config(environment: str) -> tuple[str, AnyPretrainConfig]:
    """Return the checkpoint's name and training configuration of a registered id.

    Raises:
        UserError: The id is unknown, or its layers have random weights.
    """
    try:
        name = default_kwargs(full_id(environment)).get("checkpoint")
    except ValueError as error:
        raise UserError(str(error)) from error
    if name is None:
        trained = [each for each, kwargs in ENVIRONMENTS.items() if "checkpoint" in kwargs]
        hint = f"ids with trained layers: {', '.join(trained)}"
        raise UserError(f"the layers of {environment} have random weights; {hint}")
    return name, PRETRAIN_CONFIGS[name]


def pretrain(config: PretrainConfig, progress: Callable[[int, float], None]) -> TransformerStack:
    """Train a stack on the CPU and return it in eval mode; equal configs give equal weights.

    Each chunk and layer has its own random span. ``progress`` is called after each step with the
    number of steps and the loss in bits a target.
    """
    model = config.model
    stack = TransformerStack(model, torch.Generator().manual_seed(config.seed))
    if config.freeze_global_qk:
        for index in range(model.num_layers):
            attention = stack.layer(index).attn_global
            assert attention is not None
            attention.query_module.requires_grad_(False)
            attention.key_module.requires_grad_(False)
    optimizer = ModelOptimizer(stack, config.steps, config.learning_rate)
    dataset = make_dataset(config.dataset, "train")
    rng = np.random.default_rng(config.seed)
    span_generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        content, targets = sample_batch(dataset, [rng] * config.batch, 1, model.ctx)
        size = (model.num_layers, config.batch)
        actions = torch.randint(NUM_ACTIONS, size, generator=span_generator)
        full = torch.rand(config.batch, generator=span_generator) < config.p_full_span
        actions = torch.where(full, NUM_ACTIONS - 1, actions)
        loss = optimizer.step(loss_bits(stack, content[:, 0], targets[:, 0], actions))
        progress(step + 1, loss)
    return stack.eval()


def loss_bits(stack: TransformerStack, content: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
    """Return the loss of each chunk, read as the first of a stream, in bits a target.

    Args:
        stack: The model.
        content: Bytes, int64 of shape (chunks, ctx).
        targets: Classes, same shape.
        actions: Integers 0..9 of shape (layers, chunks).
    """
    hidden = stack.embed(content)
    for index, action in enumerate(actions):
        output = stack.layer(index).forward_with_action(hidden, action).output
        hidden = stack.connect(index, hidden, output)
    return stack.loss_bits(hidden, targets)


@torch.no_grad()
def evaluate(
    stack: TransformerStack, config: PretrainConfig, chunks: int = 256
) -> dict[str, float]:
    """Return the loss of a trained stack on ``chunks`` evaluation chunks, in bits a target.

    Keys are the actions ``"0"`` to ``"9"``; an action is the same in all layers.
    """
    dataset = make_dataset(config.dataset, "evaluation")
    rng = np.random.default_rng([config.seed, 1])
    content, targets = sample_batch(dataset, [rng] * chunks, 1, config.model.ctx)
    losses = {}
    for action in range(NUM_ACTIONS):
        actions = torch.full((config.model.num_layers, chunks), action)
        loss = loss_bits(stack, content[:, 0], targets[:, 0], actions).mean()
        losses[str(action)] = round(loss.item(), 4)
    return losses


def find_trainer(config: AnyPretrainConfig) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what trains a model by a configuration, and what evaluates it.

    They are `pretrain` and `evaluate`, or of a model that reads in blocks
    `spangym.envs.model.pretrain_cache.pretrain_cache` and `evaluate_cache`.
    """
    reads_in_blocks = isinstance(config, CachePretrainConfig)
    return (pretrain_cache, evaluate_cache) if reads_in_blocks else (pretrain, evaluate)


def metadata(config: AnyPretrainConfig, losses: dict[str, float], seconds: float) -> dict[str, Any]:
    """Return a checkpoint's header: configuration, content, versions and losses."""
    return {
        "pretrain_config": dataclasses.asdict(config),
        "content_sha256": make_dataset(config.dataset, "train").fingerprint(),
        "torch": torch.__version__,
        "loss_bits_by_action": losses,
        "seconds": round(seconds),
    }
