"""``spangym pretrain``: train an id's layers at random spans, so that they work at any span."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.attention import ACTIONS
from spangym.envs.data.dataset import Source, next_tokens
from spangym.envs.data.dataset_registry import open_source
from spangym.envs.model.pretrain_config import RECIPES, Recipe
from spangym.envs.model.stack import BlockStack
from spangym.envs.registration import ENVIRONMENTS, arguments_of, full_id
from spangym.envs.transition import FULL_SPAN
from spangym.utils.errors import UserError

_JUDGED_CHUNKS = 256
_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


def recipe_of(environment: str) -> tuple[str, Recipe]:
    """How the layers of an id are trained.

    Args:
        environment: A registered id; ``spangym/`` may be left out.

    Returns:
        Name of the weights, and their recipe.

    Raises:
        UserError: There is no such id, or its layers have random weights.
    """
    try:
        name = arguments_of(full_id(environment)).get("weights")
    except ValueError as error:
        raise UserError(str(error)) from error
    if name is None:
        trained = [each for each, given in ENVIRONMENTS.items() if "weights" in given]
        raise UserError(
            f"the layers of {environment} have random weights; trained are those of: "
            f"{', '.join(trained)}"
        )
    return name, RECIPES[name]


def pretrain(recipe: Recipe, progress: Callable[[int, float], None]) -> BlockStack:
    """Train a stack on the CPU as a recipe says; the same recipe gives the same weights.

    Every chunk of a batch has spans of its own, drawn anew for each layer.

    Args:
        recipe: What to train.
        progress: Called after each step with the steps done and the loss in bits a target.

    Returns:
        The trained stack, in eval mode.
    """
    stack = BlockStack(recipe.sizes, torch.Generator().manual_seed(recipe.seed))
    if recipe.summary:
        for index in range(recipe.sizes.layers):
            attention = stack.layer(index).attn_global
            attention.query_module.requires_grad_(False)
            attention.key_module.requires_grad_(False)
    learning = [each for each in stack.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, recipe.learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        # In a shorter rise than of two steps the library divides by zero.
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.steps,
        pct_start=max(_WARM_UP, 2 / recipe.steps),
    )
    source = open_source(recipe.source, "train")
    numbers = np.random.default_rng(recipe.seed)
    spans = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.steps):
        content, targets = _batch(source, numbers, recipe.batch, recipe.sizes.ctx)
        drawn = (recipe.sizes.layers, recipe.batch)
        actions = torch.randint(ACTIONS, drawn, generator=spans)
        full = torch.rand(recipe.batch, generator=spans) < recipe.full_span
        loss = bits(stack, content, targets, torch.where(full, FULL_SPAN, actions)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    return stack.eval()


def bits(stack: BlockStack, content: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
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
        outcome = stack.layer(index).outcome(hidden, action)
        hidden = stack.follow(index, hidden, outcome)
    return stack.bits(hidden, targets)


@torch.no_grad()
def judge(stack: BlockStack, recipe: Recipe) -> dict[str, float]:
    """Loss in bits a target, on streams of the evaluation split, at every fixed span.

    Args:
        stack: A trained stack.
        recipe: How it was trained.

    Returns:
        By action, ``"0"`` to ``"9"``, the same one in every layer.
    """
    source = open_source(recipe.source, "evaluation")
    numbers = np.random.default_rng([recipe.seed, 1])
    content, targets = _batch(source, numbers, _JUDGED_CHUNKS, recipe.sizes.ctx)
    losses = {}
    for action in range(ACTIONS):
        fixed = torch.full((recipe.sizes.layers, _JUDGED_CHUNKS), action)
        losses[str(action)] = round(bits(stack, content, targets, fixed).mean().item(), 4)
    return losses


def describe(recipe: Recipe, losses: dict[str, float], seconds: float) -> dict[str, Any]:
    """The manifest of trained weights: recipe, content, versions, and what they reach."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "content_sha256": open_source(recipe.source, "train").content_hashes(),
        "torch": torch.__version__,
        "bits_by_action": losses,
        "seconds": round(seconds),
    }


def _batch(
    source: Source, generator: np.random.Generator, count: int, ctx: int
) -> tuple[Tensor, Tensor]:
    streams = [source.stream(generator, 1, ctx) for _ in range(count)]
    content = torch.from_numpy(np.concatenate([each.content for each in streams]).astype(np.int64))
    given = [each.targets for each in streams if each.targets is not None]
    targets = torch.from_numpy(np.concatenate(given)) if given else next_tokens(content)
    return content, targets
