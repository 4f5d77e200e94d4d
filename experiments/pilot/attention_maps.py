"""Attention weights of example inputs, small enough to draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spangym.experiments.analysis.results import AttentionMap
from spangym.experiments.pilot.attentions import PlainAttention
from spangym.experiments.pilot.evaluate_model import eval_mode
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_tasks import Task
from spangym.experiments.pilot.span_policies import SpanPolicy
from spangym.utils.serialization import load_state, report_damage, save_state

NUM_EXAMPLES = 2
"""Number of examples of the first split."""

_MAX_TOKENS = 96
"""Queries and keys of a map; of longer sequences the last ones, which attend to the most keys."""

_FILE = "attention_maps.safetensors"
_STORED = ("example", "layer", "path", "weights", "entropy")


@torch.no_grad()
def capture_attention_maps(
    model: PilotModel, task: Task, span_policy: SpanPolicy
) -> list[AttentionMap]:
    """Return the attention of a model on examples of the first split, in their first chunk.

    There is one map for each layer, path and example, without the variant's name; none for the
    original layer, which has no matrix of weights.
    """
    if model.attention(0).single_span_per_batch:
        return []
    examples = next(iter(task.eval_sets.values())).head(NUM_EXAMPLES)
    maps = []
    with eval_mode(model):
        hidden = model.embed(examples.content[:, 0].to(model.device))
        span_policy.begin()
        for layer in range(model.num_layers):
            attention = model.attention(layer)
            actions = span_policy.actions(layer, attention, hidden)
            output, _, layer_output = model.attend(layer, hidden, actions)
            if isinstance(attention, PlainAttention):
                paths = {"global": attention.weights(hidden)}
            else:
                assert layer_output is not None
                span_policy.observe(layer, layer_output)
                scale = layer_output.span_scale.expand(len(hidden))
                paths = {"local": attention.attention_weights(hidden, scale=scale, path="local")}
                if attention.attn_global is not None:
                    paths["global"] = attention.attention_weights(hidden, path="global")
            for path, weights in paths.items():
                for text, own in zip(examples.texts, weights, strict=True):
                    entropy = -torch.xlogy(own, own).sum(-1).mean().item()
                    shown = own.mean(0)[-_MAX_TOKENS:, -_MAX_TOKENS:]
                    array = shown.cpu().numpy().astype(np.float32)
                    maps.append(AttentionMap("", text[:80], layer, path, array, entropy))
            hidden = model.connect(layer, hidden, output)
    return maps


def save_attention_maps(folder: Path, attention_maps: Sequence[AttentionMap]) -> None:
    """Write ``attention_maps.safetensors``."""
    state = [{name: getattr(each, name) for name in _STORED} for each in attention_maps]
    save_state(folder / _FILE, state)


def load_attention_maps(folder: Path, variant: str) -> list[AttentionMap]:
    """Read what `save_attention_maps` wrote; an empty list if there is no such file."""
    path = folder / _FILE
    if not path.exists():
        return []
    with report_damage(f"{path} is damaged", path):
        return [AttentionMap(group=variant, **each) for each in load_state(path)]
