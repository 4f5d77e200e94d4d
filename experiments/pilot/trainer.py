"""The course of one training: its updates, what is written down of them, and its judgments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.experiments.pilot.evaluate_model import evaluate_model, run_model
from spangym.experiments.pilot.model_optimizer import ModelOptimizer
from spangym.experiments.pilot.models import ModelStack, PilotModel
from spangym.experiments.pilot.pilot_board import TrainingLogger
from spangym.experiments.pilot.pilot_study import CONTROLLABLE_ATTENTION, PilotStudy, VariantConfig
from spangym.experiments.pilot.pilot_tasks import Task, batch_rngs, sample_batch
from spangym.experiments.pilot.span_policies import RandomSpans, SpanPolicy

_NUM_LOG_ROWS = 100
"""Rows that are written of a training's updates."""


class Trainer:
    """A model in training; every variant reads the same batches in the same order.

    Args:
        study: How it is trained.
        variant: What its attention is.
        seed: Of the order of data and the spans that are drawn.
        task: What it learns.
        model: The model, in train mode.
        logger: Where TensorBoard's events go.
        progress: Called with the updates done.

    Attributes:
        optimizer: What updates it.
        span_policy: Who decides when the model is judged.
        random_span_policy: Who decides in the updates at random spans.
        episodes: Batches that were drawn.
        tables: Rows by table: ``curve``, ``spans`` and ``evaluation``.
    """

    def __init__(
        self,
        study: PilotStudy,
        variant: VariantConfig,
        seed: int,
        task: Task,
        model: PilotModel,
        logger: TrainingLogger,
        progress: Callable[[int], None],
    ) -> None:
        self.study = study
        self.task = task
        self.model = model
        self.optimizer = ModelOptimizer(model, study.updates, study.learning_rate)
        self.span_policy: SpanPolicy
        self.episodes = 0
        self.tables: dict[str, list[dict[str, Any]]] = {"curve": [], "spans": [], "evaluation": []}
        self.milliseconds: list[float] = []
        self._cost_coef = variant.cost_coef if variant.soft_span else 0.0
        self._seed = seed
        self._logger = logger
        self._progress = progress
        self.random_span_policy = RandomSpans(torch.Generator().manual_seed(seed))
        self._random_span_fraction = (
            study.random_span_fraction if variant.attention in CONTROLLABLE_ATTENTION else 0.0
        )
        self._running_means = _RunningMeans()
        self._log_interval = max(1, study.updates // _NUM_LOG_ROWS)
        self._seconds = 0.0
        self._start_time = time.perf_counter()
        self._last_update_time = self._start_time

    @property
    def updates(self) -> int:
        """Updates that were made."""
        return self.optimizer.updates

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, without its judgments and without other processes."""
        return self._seconds + time.perf_counter() - self._start_time

    @property
    def ema_loss(self) -> float | None:
        """Mean loss of the last updates in bits a target; None before the first."""
        return self.optimizer.ema_loss

    def num_controlled_episodes(self, episodes: int) -> int:
        """How many of so many episodes are not at random spans."""
        return episodes - sum(self._uses_random_spans(each) for each in range(episodes))

    def run_episode(self, span_policy: SpanPolicy) -> None:
        """Read the next batch and learn from it, at random spans if it is its turn."""
        if self._uses_random_spans(self.episodes):
            span_policy = self.random_span_policy
        self._run_batch(span_policy)

    def next_batch_rngs(self) -> list[np.random.Generator]:
        """Do what is to be done before a controlled episode, then say what it is drawn from."""
        self.maybe_evaluate()
        while self._uses_random_spans(self.episodes) and self.updates < self.study.updates:
            self._run_batch(self.random_span_policy)
            self.maybe_evaluate()
        return self._next_rngs()

    def update_model(self, losses: Tensor, layer_outputs: Sequence[LayerOutput]) -> None:
        """Update the model at the end of a chunk, and write down what it did.

        Args:
            losses: In bits a target, shape (batch,).
            layer_outputs: What each layer of two paths did; none of plain attention.

        Raises:
            TrainingDiverged: The loss is not finite.
        """
        penalty = None
        if self._cost_coef:
            penalty = (
                self._cost_coef * torch.stack([each.span_scale for each in layer_outputs]).mean()
            )
        loss = self.optimizer.step(losses, penalty)
        now = time.perf_counter()
        self.milliseconds.append((now - self._last_update_time) * 1e3)
        self._last_update_time = now
        self._running_means.add(loss, layer_outputs)
        if self.updates % self._log_interval == 0 or self.updates == self.study.updates:
            self._log_row()
        self._progress(self.updates)

    def maybe_evaluate(self) -> None:
        """Judge the model, if it is time to."""
        done = len({row["update"] for row in self.tables["evaluation"]})
        due = self.updates * self.study.evaluations // self.study.updates
        if done < due:
            self.evaluate()

    def evaluate(self) -> None:
        """Judge the model, and write it down."""
        seconds = round(self.seconds, 3)
        with self._pause_timer():
            for split, examples in self.task.eval_sets.items():
                result = evaluate_model(
                    self.model, self.task, examples, self.span_policy, self.study.batch
                )
                metrics = vars(result)
                common = {"update": self.updates, "seconds": seconds, "split": split}
                self.tables["evaluation"].append({**common, **metrics})
                self._logger.log_evaluation(split, metrics, self.updates)

    def layer_stack(self) -> ModelStack:
        """The model as an environment takes it."""
        return ModelStack(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "episodes": self.episodes,
            "tables": self.tables,
            "milliseconds": np.array(self.milliseconds),
            "span_rng": self.random_span_policy.generator.get_state(),
            "running_means": vars(self._running_means),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.episodes = state_dict["episodes"]
        self.tables = state_dict["tables"]
        self.milliseconds = state_dict["milliseconds"].tolist()
        self.random_span_policy.generator.set_state(state_dict["span_rng"])
        vars(self._running_means).update(state_dict["running_means"])
        self._seconds = state_dict["seconds"]
        self._start_time = self._last_update_time = time.perf_counter()

    @contextmanager
    def _pause_timer(self) -> Iterator[None]:
        """What is done meanwhile is not counted as training."""
        began = time.perf_counter()
        yield
        passed = time.perf_counter() - began
        self._start_time += passed
        self._last_update_time += passed

    def _uses_random_spans(self, episode: int) -> bool:
        return int((episode + 1) * self._random_span_fraction) > int(
            episode * self._random_span_fraction
        )

    def _next_rngs(self) -> list[np.random.Generator]:
        """What the next batch is drawn from."""
        self.episodes += 1
        return batch_rngs(self._seed, self.episodes - 1, self.study.batch)

    def _run_batch(self, span_policy: SpanPolicy) -> None:
        generators = self._next_rngs()
        # An environment draws a chunk more than it runs.
        chunks = self.task.chunks
        drawn = sample_batch(self.task.dataset, generators, chunks + 1, self.task.ctx)
        content, targets = (each[:, :chunks] for each in drawn)
        for chunk in run_model(self.model, content, targets, span_policy):
            self.update_model(chunk.losses, chunk.layer_outputs)

    def _log_row(self) -> None:
        common = {"update": self.updates, "seconds": round(self.seconds, 3)}
        loss, layers = self._running_means.means()
        self.tables["curve"].append({**common, "loss": loss})
        rows = [
            {**common, "layer": index, "span": span, "qk_pairs": keys}
            for index, (span, keys) in enumerate(layers)
        ]
        self.tables["spans"] += rows
        self._logger.log_training(loss, rows, self.updates)
        self._running_means = _RunningMeans()


class _RunningMeans:
    """Sums since the last row was written."""

    def __init__(self) -> None:
        self.updates = 0
        self.loss = 0.0
        self.spans: list[float] = []
        self.keys: list[float] = []

    def add(self, loss: float, layer_outputs: Sequence[LayerOutput]) -> None:
        """Add an update."""
        self.updates += 1
        self.loss += loss
        if layer_outputs and not self.spans:
            self.spans, self.keys = [0.0] * len(layer_outputs), [0.0] * len(layer_outputs)
        for index, layer_output in enumerate(layer_outputs):
            self.spans[index] += layer_output.span.double().mean().item()
            self.keys[index] += layer_output.qk_pairs.double().mean().item()

    def means(self) -> tuple[float, list[tuple[float, float]]]:
        """Mean loss, and mean span and visited keys of each layer."""
        count = self.updates
        means = [
            (span / count, keys / count) for span, keys in zip(self.spans, self.keys, strict=True)
        ]
        return self.loss / count, means
