"""Training of a `CacheTransformer` on documents whose cache is trimmed at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.data.sample_batch import sample_batch
from spangym.envs.model.cache_transformer import CacheTransformer
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.model_optimizer import ModelOptimizer
from spangym.utils.scalars import NonNegativeFloat, PositiveInt, normalize_fields

_MIN_SHARE = 1e-30
"""Smallest share of which the penalty takes the logarithm."""


@dataclass(frozen=True)
class CachePretrainConfig:
    """Training of a `CacheTransformer`.

    Attributes:
        dataset: Name of the training dataset.
        model: Sizes of the model.
        steps: Optimizer steps, at least 3.
        batch: Documents in a step.
        learning_rate: Peak of a one-cycle schedule.
        p_trim: Probability that the cache is trimmed before a block, to a random number of blocks.
        past_penalty: Coefficient of a penalty on attention of tokens without a target to earlier
            blocks, at the end of the training; it grows linearly from 0, so that retrieval is
            learned first. With it tokens do not attend a little to everything that is held.
        seed: Seed of weights, documents and trims.
    """

    dataset: str
    model: CacheTransformerConfig
    steps: Annotated[int, Interval(ge=3)]
    batch: PositiveInt = 8
    learning_rate: NonNegativeFloat = 1e-2
    p_trim: Annotated[float, Interval(ge=0, le=1)] = 0.2
    past_penalty: NonNegativeFloat = 0.5
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0

    def __post_init__(self) -> None:
        normalize_fields(self)


def pretrain_cache(
    config: CachePretrainConfig, progress: Callable[[int, float], None]
) -> CacheTransformer:
    """Train a model on the CPU and return it in eval mode; equal configs give equal weights.

    ``progress`` is called after each step with the number of steps and the loss in bits a target.
    """
    sizes = config.model
    model = CacheTransformer(sizes, torch.Generator().manual_seed(config.seed))
    optimizer = ModelOptimizer(model, config.steps, config.learning_rate)
    dataset = make_dataset(config.dataset, "train")
    rng = np.random.default_rng(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        content, targets = sample_batch(dataset, [rng] * config.batch, 1, sizes.ctx)
        size = (config.batch, sizes.num_blocks - 1)
        kept = torch.randint(1, sizes.num_blocks, size, generator=generator)
        is_trimmed = torch.rand(size, generator=generator) < config.p_trim
        kept = torch.where(is_trimmed, kept, sizes.num_blocks)
        losses, past_nats = run_documents(model, content[:, 0], targets[:, 0], kept)
        penalty = config.past_penalty * step / config.steps * past_nats
        progress(step + 1, optimizer.step(losses, penalty))
    return model.eval()


def run_documents(
    model: CacheTransformer, tokens: Tensor, targets: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    """Read whole documents at once, with a trimmed cache.

    Args:
        model: The model.
        tokens: Bytes, int64 of shape (batch, ctx).
        targets: Classes, of the same shape.
        kept: Blocks that each decision keeps at most, int64 of shape (batch, blocks - 1).

    Returns:
        Losses in bits a target, shape (batch,); and minus the logarithm of the share of the
        attention that stays in the block or goes to the sink, the mean over tokens without a
        target.
    """
    sizes, ctx = model.config, tokens.shape[1]
    block = torch.arange(ctx // sizes.block)
    # First block that is still there when a block is read: trims are never undone.
    starts = torch.nn.functional.pad((block[1:] - kept).clamp_min(0), (1, 0)).cummax(1).values
    of_token = block.repeat_interleave(sizes.block)
    position = torch.arange(ctx)
    is_past = (of_token < of_token[:, None]) & (of_token >= starts[:, of_token, None])
    is_causal = (of_token == of_token[:, None]) & (position <= position[:, None])
    mask = is_past | is_causal
    projected = model.project(tokens.reshape(-1, sizes.block))
    hidden = projected.hidden.reshape(len(tokens), ctx, -1)
    query, keys, values = (
        each.unflatten(0, (len(tokens), -1)).transpose(1, 2).flatten(2, 3) for each in projected[1:]
    )
    hidden, weights = model.attend(hidden, query, keys, values, mask)
    logits = model.head(hidden).transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    counts = (targets != NO_TARGET).sum(1).clamp_min(1)
    # Of the own share, since the past's is near 1 at first, where its gradient is near 0.
    needs_nothing = (targets == NO_TARGET)[:, None].expand(weights.shape[:-1])
    stays = torch.nn.functional.pad(is_causal, (0, 1), value=True)
    own_share = (weights * stays).sum(-1)[needs_nothing]
    past_nats = -own_share.clamp_min(_MIN_SHARE).log().mean()
    return losses.sum(1) / counts / np.log(2), past_nats


@torch.no_grad()
def evaluate_cache(
    model: CacheTransformer, config: CachePretrainConfig, chunks: int = 256
) -> dict[str, float]:
    """Return the loss of a trained model on ``chunks`` evaluation documents, in bits a target.

    Keys are the numbers of blocks that every decision keeps at most.
    """
    sizes = config.model
    dataset = make_dataset(config.dataset, "evaluation")
    rng = np.random.default_rng([config.seed, 1])
    content, targets = sample_batch(dataset, [rng] * chunks, 1, sizes.ctx)
    losses = {}
    for kept in range(1, sizes.num_blocks):
        every = torch.full((chunks, sizes.num_blocks - 1), kept)
        loss, _ = run_documents(model, content[:, 0], targets[:, 0], every)
        losses[str(kept)] = round(loss.mean().item(), 4)
    return losses
