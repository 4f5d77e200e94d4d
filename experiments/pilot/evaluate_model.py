"""A model that reads streams, chunk by chunk, under somebody's decisions."""

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
    """What a model made of one chunk of each batch element's stream.

    Attributes:
        hidden: What left its last block, shape (batch, tokens, dims).
        losses: In bits a target, shape (batch,).
        layer_outputs: What each layer of two paths did; none of plain attention.
        qk_pairs: Query-key pairs that all paths scored, shape (layers, batch).
    """

    hidden: Tensor
    losses: Tensor
    layer_outputs: tuple[LayerOutput, ...]
    qk_pairs: Tensor


def run_model(
    model: PilotModel, content: Tensor, targets: Tensor, span_policy: SpanPolicy
) -> Iterator[ChunkResult]:
    """Read streams; what is kept from chunk to chunk is detached.

    Args:
        model: The model.
        content: Shape (batch, chunks, ctx), or (batch, chunks, ctx, channels) of frames; on any
            device.
        targets: Shape (batch, chunks, ctx); likewise.
        span_policy: Who decides the spans.
    """
    content, targets = (each.to(model.device) for each in (content, targets))
    caches: list[LayerCache | None] = [None] * model.num_layers
    span_policy.begin()
    for chunk in range(content.shape[1]):
        hidden = model.embed(content[:, chunk])
        layer_outputs, qk_pairs = [], []
        for index in range(model.num_layers):
            actions = span_policy.actions(index, model.attention(index), hidden)
            attention_output = model.attend(index, hidden, actions, caches[index])
            hidden = model.apply_residual_ffn(index, hidden, attention_output.output)
            caches[index] = attention_output.cache
            qk_pairs.append(attention_output.qk_pairs)
            if attention_output.layer_output is not None:
                span_policy.observe(index, attention_output.layer_output)
                layer_outputs.append(attention_output.layer_output)
        losses = model.losses(hidden, targets[:, chunk])
        yield ChunkResult(hidden, losses, tuple(layer_outputs), torch.stack(qk_pairs))


@dataclass(frozen=True)
class EvalResult:
    """How a model does on a set.

    Attributes:
        loss: In bits a target.
        error: Word error rate as a share; bits a byte of text.
        character_error: As a share; NaN of text.
        span: Mean over layers and batch elements, in tokens; NaN of plain attention.
        qk_pairs: Mean of a layer and batch element.
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
    """Judge a model on a set; it learns nothing, nor does what is in its layers.

    Args:
        model: The model; in train mode afterwards if it was before.
        task: What it is to do.
        examples: The set.
        span_policy: Who decides the spans.
        batch_size: How many are read side by side.
    """
    hidden, losses, spans, qk_pairs = [], [], [], []
    with eval_mode(model):
        parts = zip(
            examples.content.split(batch_size), examples.targets.split(batch_size), strict=True
        )
        for content, targets in parts:
            some: list[tuple[Tensor, Tensor]] = []
            for chunk in run_model(model, content, targets, span_policy):
                some.append((chunk.hidden, chunk.losses))
                spans += [each.span.double() for each in chunk.layer_outputs]
                qk_pairs.append(chunk.qk_pairs.flatten().double())
            for whole, each in zip((hidden, losses), zip(*some, strict=True), strict=True):
                whole.append(torch.stack(each, dim=1))
    all_losses = torch.cat(losses)
    error_rates = task.error_rates(model, torch.cat(hidden), all_losses, examples.texts)
    return EvalResult(
        loss=all_losses.mean().item(),
        error=error_rates.error,
        character_error=error_rates.character_error,
        span=torch.cat(spans).mean().item() if spans else float("nan"),
        qk_pairs=torch.cat(qk_pairs).mean().item(),
    )


@contextlib.contextmanager
def eval_mode(model: PilotModel) -> Iterator[None]:
    """A model in eval mode, and after that in the mode it was in.

    Refiners of original layers learn in eval mode, too: what they learn meanwhile is forgotten.
    """
    training = model.training
    refiners = [
        each.refiner
        for each in map(model.attention, range(model.num_layers))
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
