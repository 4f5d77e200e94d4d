"""Runs a model on streams, chunk by chunk, and evaluates it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention import IntegratedAttention, LayerCache, LayerOutput, StatefulController
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_tasks import EvalSet, Task
from spangym.experiments.pilot.span_policies import SpanPolicy


@dataclass(frozen=True)
class ChunkResult:
    """Result of one chunk of each stream.

    Attributes:
        hidden: Output of the last block, shape (batch, tokens, dims).
        losses: Losses in bits a target, shape (batch,).
        layer_outputs: Outputs of the local-global layers; empty for plain attention.
        qk_pairs: Query-key pairs scored by all paths, shape (layers, batch).
    """

    hidden: Tensor
    losses: Tensor
    layer_outputs: tuple[LayerOutput, ...]
    qk_pairs: Tensor


def run_model(
    model: PilotModel, content: Tensor, targets: Tensor, span_policy: SpanPolicy
) -> Iterator[ChunkResult]:
    """Read content and targets of an `EvalSet`'s shapes; gradients do not cross chunks."""
    content, targets = content.to(model.device), targets.to(model.device)
    caches: list[LayerCache | None] = [None] * model.num_layers
    span_policy.begin()
    for chunk in range(content.shape[1]):
        hidden = model.embed(content[:, chunk])
        layer_outputs, qk_pairs = [], []
        for index in range(model.num_layers):
            actions = span_policy.actions(index, model.attention(index), hidden)
            output, layer_pairs, layer_output = model.attend(index, hidden, actions, caches[index])
            hidden = model.connect(index, hidden, output)
            qk_pairs.append(layer_pairs)
            if layer_output is not None:
                caches[index] = layer_output.cache
                span_policy.observe(index, layer_output)
                layer_outputs.append(layer_output)
        losses = model.loss_bits(hidden, targets[:, chunk])
        yield ChunkResult(hidden, losses, tuple(layer_outputs), torch.stack(qk_pairs))


@dataclass(frozen=True)
class EvalResult:
    """Metrics of a model on one split.

    Attributes:
        loss: Loss in bits a target.
        error: Word error rate as a fraction; bits a byte for text.
        character_error: Character error rate as a fraction; NaN for text.
        span: Mean span over layers and sequences in tokens; NaN for plain attention.
        qk_pairs: Mean number of query-key pairs of a layer and sequence.
    """

    loss: float
    error: float
    character_error: float
    span: float
    qk_pairs: float


@torch.no_grad()
def evaluate_model(
    model: PilotModel, task: Task, examples: EvalSet, span_policy: SpanPolicy, batch_size: int
) -> EvalResult:
    """Evaluate a model; neither the model nor Refiners in its layers learn."""
    hidden, losses, spans, qk_pairs = [], [], [], []
    with eval_mode(model):
        for content, targets in zip(
            examples.content.split(batch_size), examples.targets.split(batch_size), strict=True
        ):
            chunks = [*run_model(model, content, targets, span_policy)]
            hidden.append(torch.stack([each.hidden for each in chunks], dim=1))
            losses.append(torch.stack([each.losses for each in chunks], dim=1))
            for chunk in chunks:
                spans += [each.span.double() for each in chunk.layer_outputs]
                qk_pairs.append(chunk.qk_pairs.flatten().double())
    all_losses = torch.cat(losses)
    error, character_error = task.error_rates(model, torch.cat(hidden), all_losses, examples.texts)
    return EvalResult(
        loss=all_losses.mean().item(),
        error=error,
        character_error=character_error,
        span=torch.cat(spans).mean().item() if spans else float("nan"),
        qk_pairs=torch.cat(qk_pairs).mean().item(),
    )


@contextlib.contextmanager
def eval_mode(model: PilotModel) -> Iterator[None]:
    """Put a model in eval mode, and restore its mode afterwards.

    Refiners of original layers learn in eval mode too; their tables are restored as well.
    """
    training = model.training
    refiners = [
        each.refiner
        for each in model.layers
        if isinstance(each, IntegratedAttention) and isinstance(each.refiner, StatefulController)
    ]
    refiner_states = [copy.deepcopy(dict(each.state_dict())) for each in refiners]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for refiner, state in zip(refiners, refiner_states, strict=True):
            refiner.load_state_dict(state)
