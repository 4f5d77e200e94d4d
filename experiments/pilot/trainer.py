"""The course of one training: its updates, what is written down of them, and its judgements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.attention import Outcome
from spangym.experiments.pilot.evaluate_model import judge, read
from spangym.experiments.pilot.model_optimizer import Learner
from spangym.experiments.pilot.models import ControlledStack, PilotModel
from spangym.experiments.pilot.pilot_board import PilotBoard
from spangym.experiments.pilot.pilot_study import CONTROLLED, Plan, VariantEntry
from spangym.experiments.pilot.pilot_tasks import Task, batch_generators, draw
from spangym.experiments.pilot.span_policies import ChanceDecides, Decider

_ROWS = 100
"""Rows that are written of a training's updates."""


class Course:
    """A model in training; every variant reads the same batches in the same order.

    Args:
        plan: How it is trained.
        variant: What its attention is.
        seed: Of the order of data and the spans that are drawn.
        task: What it learns.
        model: The model, in train mode.
        board: Where TensorBoard's events go.
        progress: Called with the updates done.

    Attributes:
        learner: What updates it.
        decider: Who decides when the model is judged.
        chance: Who decides in the updates at random spans.
        episodes: Batches that were drawn.
        tables: Rows by table: ``curve``, ``spans`` and ``evaluation``.
    """

    def __init__(
        self,
        plan: Plan,
        variant: VariantEntry,
        seed: int,
        task: Task,
        model: PilotModel,
        board: PilotBoard,
        progress: Callable[[int], None],
    ) -> None:
        self.plan = plan
        self.task = task
        self.model = model
        self.learner = Learner(model, plan.updates, plan.learning_rate)
        self.decider: Decider
        self.episodes = 0
        self.tables: dict[str, list[dict[str, Any]]] = {"curve": [], "spans": [], "evaluation": []}
        self.milliseconds: list[float] = []
        self._price = variant.price if variant.soft_span else 0.0
        self._seed = seed
        self._board = board
        self._progress = progress
        self.chance = ChanceDecides(torch.Generator().manual_seed(seed))
        self._varied = plan.varied if variant.attention in CONTROLLED else 0.0
        self._since = _Since()
        self._every = max(1, plan.updates // _ROWS)
        self._seconds = 0.0
        self._began = time.perf_counter()
        self._updated = self._began

    @property
    def updates(self) -> int:
        """Updates that were made."""
        return self.learner.updates

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, without its judgements and without other processes."""
        return self._seconds + time.perf_counter() - self._began

    @property
    def recent_loss(self) -> float | None:
        """Mean loss of the last updates in bits a target; None before the first."""
        return self.learner.recent

    def controlled(self, episodes: int) -> int:
        """How many of so many episodes are not at random spans."""
        return episodes - sum(self._is_varied(each) for each in range(episodes))

    def run_episode(self, decider: Decider) -> None:
        """Read the next batch and learn from it, at random spans if it is its turn."""
        if self._is_varied(self.episodes):
            decider = self.chance
        self._read(decider)

    def next_batch(self) -> list[np.random.Generator]:
        """Do what is to be done before a controlled episode, then say what it is drawn from."""
        self.rest()
        while self._is_varied(self.episodes) and self.updates < self.plan.updates:
            self._read(self.chance)
            self.rest()
        return self._draw_from()

    def learn_from(self, losses: Tensor, outcomes: Sequence[Outcome]) -> None:
        """Update the model at the end of a chunk, and write down what it did.

        Args:
            losses: In bits a target, shape (lanes,).
            outcomes: What each layer of two paths did; none of plain attention.

        Raises:
            Stopped: The loss is not finite.
        """
        penalty = None
        if self._price:
            penalty = self._price * torch.stack([each.scale for each in outcomes]).mean()
        loss = self.learner.learn(losses, penalty)
        now = time.perf_counter()
        self.milliseconds.append((now - self._updated) * 1e3)
        self._updated = now
        self._since.add(loss, outcomes)
        if self.updates % self._every == 0 or self.updates == self.plan.updates:
            self._write()
        self._progress(self.updates)

    def rest(self) -> None:
        """Judge the model, if it is time to."""
        done = len({row["update"] for row in self.tables["evaluation"]})
        due = self.updates * self.plan.evaluations // self.plan.updates
        if done < due:
            self.judge()

    def judge(self) -> None:
        """Judge the model, and write it down."""
        seconds = round(self.seconds, 3)
        with self._aside():
            for split, examples in self.task.sets.items():
                found = judge(self.model, self.task, examples, self.decider, self.plan.batch)
                judged = vars(found)
                place = {"update": self.updates, "seconds": seconds, "split": split}
                self.tables["evaluation"].append({**place, **judged})
                self._board.evaluation(split, judged, self.updates)

    def stack(self) -> ControlledStack:
        """The model as an environment takes it."""
        return ControlledStack(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed."""
        return {
            "learner": self.learner.state_dict(),
            "episodes": self.episodes,
            "tables": self.tables,
            "milliseconds": np.array(self.milliseconds),
            "chance": self.chance.generator.get_state(),
            "since": vars(self._since),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called."""
        self.learner.load_state_dict(state_dict["learner"])
        self.episodes = state_dict["episodes"]
        self.tables = state_dict["tables"]
        self.milliseconds = state_dict["milliseconds"].tolist()
        self.chance.generator.set_state(state_dict["chance"])
        vars(self._since).update(state_dict["since"])
        self._seconds = state_dict["seconds"]
        self._began = self._updated = time.perf_counter()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What is done meanwhile is not counted as training."""
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self._began += passed
        self._updated += passed

    def _is_varied(self, episode: int) -> bool:
        return int((episode + 1) * self._varied) > int(episode * self._varied)

    def _draw_from(self) -> list[np.random.Generator]:
        """What the next batch is drawn from."""
        self.episodes += 1
        return batch_generators(self._seed, self.episodes - 1, self.plan.batch)

    def _read(self, decider: Decider) -> None:
        generators = self._draw_from()
        # An environment draws a chunk more than it runs.
        chunks = self.task.chunks
        drawn = draw(self.task.source, generators, chunks + 1, self.task.ctx)
        content, targets = (each[:, :chunks] for each in drawn)
        for chunk in read(self.model, content, targets, decider):
            self.learn_from(chunk.losses, chunk.outcomes)

    def _write(self) -> None:
        place = {"update": self.updates, "seconds": round(self.seconds, 3)}
        loss, layers = self._since.means()
        self.tables["curve"].append({**place, "loss": loss})
        rows = [
            {**place, "layer": index, "span": span, "visited_keys": keys}
            for index, (span, keys) in enumerate(layers)
        ]
        self.tables["spans"] += rows
        self._board.training(loss, rows, self.updates)
        self._since = _Since()


class _Since:
    """Sums since the last row was written."""

    def __init__(self) -> None:
        self.updates = 0
        self.loss = 0.0
        self.spans: list[float] = []
        self.keys: list[float] = []

    def add(self, loss: float, outcomes: Sequence[Outcome]) -> None:
        """Add an update."""
        self.updates += 1
        self.loss += loss
        if outcomes and not self.spans:
            self.spans, self.keys = [0.0] * len(outcomes), [0.0] * len(outcomes)
        for index, outcome in enumerate(outcomes):
            self.spans[index] += outcome.span.double().mean().item()
            self.keys[index] += outcome.visited_keys.double().mean().item()

    def means(self) -> tuple[float, list[tuple[float, float]]]:
        """Mean loss, and mean span and visited keys of each layer."""
        count = self.updates
        means = [
            (span / count, keys / count) for span, keys in zip(self.spans, self.keys, strict=True)
        ]
        return self.loss / count, means
