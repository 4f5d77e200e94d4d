"""Attention weights of chosen examples, kept small enough to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spangym.experiments.pilot.attentions import PlainAttention
from spangym.experiments.pilot.evaluate_model import eval_mode
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_rows import AttentionMap
from spangym.experiments.pilot.pilot_tasks import Task
from spangym.experiments.pilot.span_policies import SpanPolicy
from spangym.utils.serialization import load_state, save_state

EXAMPLES = 2
"""Examples of the first split that are shown."""
_LONGEST = 96
"""Queries and keys that are shown; of longer sequences the last ones, which see most."""

_FILE = "attention_maps.safetensors"
_STORED = ("example", "layer", "path", "weights", "entropy")


@torch.no_grad()
def capture_attention_maps(
    model: PilotModel, task: Task, span_policy: SpanPolicy
) -> list[AttentionMap]:
    """The attention of a trained model on examples of the first split, in their first chunk.

    Args:
        model: The model.
        task: What it has learned.
        span_policy: Who decides the spans.

    Returns:
        A picture for each example, layer and path; variants are still to be named.
    """
    if model.attention(0).single_span_per_batch:
        # The original layer has no matrix of weights.
        return []
    examples = next(iter(task.eval_sets.values())).head(EXAMPLES)
    attention_maps = []
    with eval_mode(model):
        hidden = model.embed(examples.content[:, 0].to(model.device))
        span_policy.begin()
        for index in range(model.num_layers):
            actions = span_policy.actions(index, model.attention(index), hidden)
            attention_output = model.attend(index, hidden, actions)
            scale = None
            if attention_output.layer_output is not None:
                span_policy.observe(index, attention_output.layer_output)
                scale = attention_output.layer_output.span_scale.expand(len(hidden))
            for path, weights in _weights(model, index, hidden, scale):
                for index, text in enumerate(examples.texts):
                    attention_maps.append(_attention_map(text, index, path, weights[index]))
            hidden = model.apply_residual_ffn(index, hidden, attention_output.output)
    return attention_maps


def save_attention_maps(folder: Path, attention_maps: Sequence[AttentionMap]) -> None:
    """Write ``attention_maps.safetensors``."""
    state = [{name: getattr(each, name) for name in _STORED} for each in attention_maps]
    save_state(folder / _FILE, state)


def load_attention_maps(folder: Path, variant: str) -> list[AttentionMap]:
    """Read what `save_attention_maps` wrote; empty if there is no such file.

    Args:
        folder: Folder of a training.
        variant: Label of its variant.
    """
    path = folder / _FILE
    if not path.exists():
        return []
    return [AttentionMap(variant=variant, **each) for each in load_state(path)]


def _weights(
    model: PilotModel, index: int, hidden: Tensor, scale: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Paths of a block, each with its weights, (batch, heads, queries, keys)."""
    attention = model.attention(index)
    if isinstance(attention, PlainAttention):
        yield "global", attention.attention.weights(attention.ln(hidden))
        return
    yield "local", attention.attention_weights(hidden, scale=scale, path="local")
    yield "global", attention.attention_weights(hidden, path="global")


def _attention_map(text: str, layer: int, path: str, weights: Tensor) -> AttentionMap:
    """A picture of weights (heads, queries, keys)."""
    entropy = -torch.xlogy(weights, weights).sum(-1).mean().item()
    shown = weights.mean(0)[-_LONGEST:, -_LONGEST:].cpu().numpy().astype(np.float32)
    return AttentionMap("", text[:80], layer, path, shown, entropy)
