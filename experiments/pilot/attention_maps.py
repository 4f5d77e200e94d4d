"""Attention weights of chosen examples, kept small enough to be drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.experiments.pilot.attentions import PlainAttention
from spangym.experiments.pilot.evaluate_model import in_eval_mode
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_rows import AttentionPicture
from spangym.experiments.pilot.pilot_tasks import Task
from spangym.experiments.pilot.span_policies import Decider
from spangym.utils.atomic_io import written_whole

EXAMPLES = 2
"""Examples of the first split that are shown."""
_LONGEST = 96
"""Queries and keys that are shown; of longer sequences the last ones, which see most."""


@torch.no_grad()
def take_pictures(model: PilotModel, task: Task, decider: Decider) -> list[AttentionPicture]:
    """The attention of a trained model on examples of the first split, in their first chunk.

    Args:
        model: The model.
        task: What it has learnt.
        decider: Who decides the spans.

    Returns:
        A picture for each example, layer and path; variants are still to be named.
    """
    if model.attention(0).batch_is_one:
        # The original layer has no matrix of weights.
        return []
    examples = next(iter(task.sets.values())).only(EXAMPLES)
    pictures = []
    with in_eval_mode(model):
        hidden = model.embed(examples.content[:, 0].to(model.device))
        decider.begin()
        for index in range(model.layers):
            actions = decider.actions(index, model.attention(index), hidden)
            attended = model.attend(index, hidden, actions)
            scale = None
            if attended.outcome is not None:
                decider.saw(index, attended.outcome)
                scale = attended.outcome.scale.expand(len(hidden))
            for path, weights in _weights(model, index, hidden, scale):
                for lane, text in enumerate(examples.texts):
                    pictures.append(_picture(text, index, path, weights[lane]))
            hidden = model.follow(index, hidden, attended.output)
    return pictures


def write_pictures(folder: Path, pictures: Sequence[AttentionPicture]) -> None:
    """Write ``pictures.npz``, whole or not at all."""
    arrays: dict[str, Any] = {
        f"weights_{number}": each.weights for number, each in enumerate(pictures)
    }
    named = [
        {name: getattr(each, name) for name in ("example", "layer", "path", "entropy")}
        for each in pictures
    ]
    arrays["named"] = np.array(json.dumps(named))
    with written_whole(folder / "pictures.npz") as aside, aside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_pictures(folder: Path, variant: str) -> list[AttentionPicture]:
    """What `write_pictures` wrote; nothing where there is none.

    Args:
        folder: Folder of a training.
        variant: Label of its variant.
    """
    path = folder / "pictures.npz"
    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as stored:
        return [
            AttentionPicture(variant=variant, weights=stored[f"weights_{number}"], **named)
            for number, named in enumerate(json.loads(stored["named"].item()))
        ]


def _weights(
    model: PilotModel, index: int, hidden: Tensor, scale: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Paths of a block, each with its weights, (lanes, heads, queries, keys)."""
    attention = model.attention(index)
    if isinstance(attention, PlainAttention):
        yield "global", attention.attention.weights(attention.ln(hidden))
        return
    yield "local", attention.attention_weights(hidden, scale=scale, path="local")
    yield "global", attention.attention_weights(hidden, path="global")


def _picture(text: str, layer: int, path: str, weights: Tensor) -> AttentionPicture:
    """A picture of weights (heads, queries, keys)."""
    entropy = -torch.xlogy(weights, weights).sum(-1).mean().item()
    shown = weights.mean(0)[-_LONGEST:, -_LONGEST:].cpu().numpy().astype(np.float32)
    return AttentionPicture("", text[:80], layer, path, shown, entropy)
