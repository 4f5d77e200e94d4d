"""A model that reads streams, chunk by chunk, under somebody's decisions."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spangym.attention import IntegratedAttention, LayerCache, Outcome, StoredController
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_tasks import EvaluationSet, Task
from spangym.experiments.pilot.span_policies import Decider


@dataclass(frozen=True)
class Chunk:
    """What a model made of one chunk of each lane's stream.

    Attributes:
        hidden: What left its last block, shape (lanes, tokens, dims).
        losses: In bits a target, shape (lanes,).
        outcomes: What each layer of two paths did; none of plain attention.
        visited_keys: Query-key pairs that all paths scored, shape (layers, lanes).
    """

    hidden: Tensor
    losses: Tensor
    outcomes: tuple[Outcome, ...]
    visited_keys: Tensor


def read(model: PilotModel, content: Tensor, targets: Tensor, decider: Decider) -> Iterator[Chunk]:
    """Read streams; what is kept from chunk to chunk is detached.

    Args:
        model: The model.
        content: Shape (lanes, chunks, ctx), or (lanes, chunks, ctx, channels) of frames; on any
            device.
        targets: Shape (lanes, chunks, ctx); likewise.
        decider: Who decides the spans.
    """
    content, targets = (each.to(model.device) for each in (content, targets))
    caches: list[LayerCache | None] = [None] * model.layers
    decider.begin()
    for chunk in range(content.shape[1]):
        hidden = model.embed(content[:, chunk])
        outcomes, visited = [], []
        for index in range(model.layers):
            actions = decider.actions(index, model.attention(index), hidden)
            attended = model.attend(index, hidden, actions, caches[index])
            hidden = model.follow(index, hidden, attended.output)
            caches[index] = attended.cache
            visited.append(attended.visited_keys)
            if attended.outcome is not None:
                decider.saw(index, attended.outcome)
                outcomes.append(attended.outcome)
        losses = model.losses(hidden, targets[:, chunk])
        yield Chunk(hidden, losses, tuple(outcomes), torch.stack(visited))


@dataclass(frozen=True)
class Judgement:
    """How a model does on a set.

    Attributes:
        loss: In bits a target.
        error: Word error rate as a share; bits a byte of text.
        character_error: As a share; NaN of text.
        span: Mean over layers and lanes, in tokens; NaN of plain attention.
        visited_keys: Mean of a layer and lane.
    """

    loss: float
    error: float
    character_error: float
    span: float
    visited_keys: float


@torch.no_grad()
def judge(
    model: PilotModel, task: Task, examples: EvaluationSet, decider: Decider, lanes: int
) -> Judgement:
    """Judge a model on a set; it learns nothing, nor does what is in its layers.

    Args:
        model: The model; in train mode afterwards if it was before.
        task: What it is to do.
        examples: The set.
        decider: Who decides the spans.
        lanes: How many are read side by side.
    """
    hidden, losses, spans, visited = [], [], [], []
    with in_eval_mode(model):
        parts = zip(examples.content.split(lanes), examples.targets.split(lanes), strict=True)
        for content, targets in parts:
            some: list[tuple[Tensor, Tensor]] = []
            for chunk in read(model, content, targets, decider):
                some.append((chunk.hidden, chunk.losses))
                spans += [each.span.double() for each in chunk.outcomes]
                visited.append(chunk.visited_keys.flatten().double())
            for whole, each in zip((hidden, losses), zip(*some, strict=True), strict=True):
                whole.append(torch.stack(each, dim=1))
    all_losses = torch.cat(losses)
    errors = task.errors(model, torch.cat(hidden), all_losses, examples.texts)
    return Judgement(
        loss=all_losses.mean().item(),
        error=errors.error,
        character_error=errors.character_error,
        span=torch.cat(spans).mean().item() if spans else float("nan"),
        visited_keys=torch.cat(visited).mean().item(),
    )


@contextlib.contextmanager
def in_eval_mode(model: PilotModel) -> Iterator[None]:
    """A model in eval mode, and after that in the mode it was in.

    Refiners of original layers learn in eval mode, too: what they learn meanwhile is forgotten.
    """
    training = model.training
    refiners = [
        each.refiner
        for each in map(model.attention, range(model.layers))
        if isinstance(each, IntegratedAttention) and isinstance(each.refiner, StoredController)
    ]
    kept = [copy.deepcopy(dict(each.state_dict())) for each in refiners]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for refiner, state in zip(refiners, kept, strict=True):
            refiner.load_state_dict(state)
