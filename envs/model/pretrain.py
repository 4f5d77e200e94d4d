"""``spangym pretrain``: train an id's layers at random spans, so that they work at any span."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.attention import NUM_ACTIONS
from spangym.envs.data.dataset import Dataset, next_token_targets
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.model.pretrain_config import PRETRAIN_CONFIGS, PretrainConfig
from spangym.envs.model.stack import TransformerStack
from spangym.envs.registration import ENVIRONMENTS, default_kwargs, full_id
from spangym.envs.transition import MAX_SPAN_ACTION
from spangym.utils.errors import UserError

_EVAL_CHUNKS = 256
_WEIGHT_DECAY = 0.01
_WARMUP_FRACTION = 0.1
"""Share of the steps in which the learning rate rises."""


def get_config(environment: str) -> tuple[str, PretrainConfig]:
    """How the layers of an id are trained.

    Args:
        environment: A registered id; ``spangym/`` may be left out.

    Returns:
        Name of the weights, and their config.

    Raises:
        UserError: There is no such id, or its layers have random weights.
    """
    try:
        name = default_kwargs(full_id(environment)).get("checkpoint")
    except ValueError as error:
        raise UserError(str(error)) from error
    if name is None:
        trained = [each for each, given in ENVIRONMENTS.items() if "checkpoint" in given]
        raise UserError(
            f"the layers of {environment} have random weights; trained are those of: "
            f"{', '.join(trained)}"
        )
    return name, PRETRAIN_CONFIGS[name]


def pretrain(config: PretrainConfig, progress: Callable[[int, float], None]) -> TransformerStack:
    """Train a stack on the CPU as a config says; the same config gives the same weights.

    Every chunk of a batch has spans of its own, drawn anew for each layer.

    Args:
        config: What to train.
        progress: Called after each step with the steps done and the loss in bits a target.

    Returns:
        The trained stack, in eval mode.
    """
    stack = TransformerStack(config.model, torch.Generator().manual_seed(config.seed))
    if config.freeze_global_qk:
        for index in range(config.model.num_layers):
            attention = stack.layer(index).attn_global
            attention.query_module.requires_grad_(False)
            attention.key_module.requires_grad_(False)
    learning = [each for each in stack.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, config.learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        # In a shorter rise than of two steps the library divides by zero.
        optimizer,
        config.learning_rate,
        total_steps=config.steps,
        pct_start=max(_WARMUP_FRACTION, 2 / config.steps),
    )
    dataset = make_dataset(config.dataset, "train")
    rng = np.random.default_rng(config.seed)
    span_generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        content, targets = _batch(dataset, rng, config.batch, config.model.ctx)
        drawn = (config.model.num_layers, config.batch)
        actions = torch.randint(NUM_ACTIONS, drawn, generator=span_generator)
        full = torch.rand(config.batch, generator=span_generator) < config.p_full_span
        loss = loss_bits(
            stack, content, targets, torch.where(full, MAX_SPAN_ACTION, actions)
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    return stack.eval()


def loss_bits(stack: TransformerStack, content: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
    """Loss of each chunk, each read without a past.

    Args:
        stack: What reads them.
        content: Bytes, int64 of shape (chunks, ctx).
        targets: Classes, likewise.
        actions: Integers 0..9 of shape (layers, chunks).

    Returns:
        Mean cross entropy of the targets in bits, shape (chunks,).
    """
    hidden = stack.embed(content)
    for index, action in enumerate(actions):
        outcome = stack.layer(index).forward_with_action(hidden, action)
        hidden = stack.connect(index, hidden, outcome)
    return stack.loss_bits(hidden, targets)


@torch.no_grad()
def evaluate(stack: TransformerStack, config: PretrainConfig) -> dict[str, float]:
    """Loss in bits a target, on streams of the evaluation split, at every fixed span.

    Args:
        stack: A trained stack.
        config: How it was trained.

    Returns:
        By action, ``"0"`` to ``"9"``, the same one in every layer.
    """
    dataset = make_dataset(config.dataset, "evaluation")
    rng = np.random.default_rng([config.seed, 1])
    content, targets = _batch(dataset, rng, _EVAL_CHUNKS, config.model.ctx)
    losses = {}
    for action in range(NUM_ACTIONS):
        fixed = torch.full((config.model.num_layers, _EVAL_CHUNKS), action)
        losses[str(action)] = round(loss_bits(stack, content, targets, fixed).mean().item(), 4)
    return losses


def metadata(config: PretrainConfig, losses: dict[str, float], seconds: float) -> dict[str, Any]:
    """The manifest of trained weights: config, content, versions, and what they reach."""
    return {
        "pretrain_config": dataclasses.asdict(config),
        "content_sha256": make_dataset(config.dataset, "train").fingerprint(),
        "torch": torch.__version__,
        "loss_bits_by_action": losses,
        "seconds": round(seconds),
    }


def _batch(
    dataset: Dataset, generator: np.random.Generator, count: int, ctx: int
) -> tuple[Tensor, Tensor]:
    streams = [dataset.sample(generator, 1, ctx) for _ in range(count)]
    content = torch.from_numpy(np.concatenate([each.content for each in streams]).astype(np.int64))
    given = [each.targets for each in streams if each.targets is not None]
    targets = torch.from_numpy(np.concatenate(given)) if given else next_token_targets(content)
    return content, targets
