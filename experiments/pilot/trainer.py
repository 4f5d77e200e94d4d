"""Trains one model: its batches, updates, log rows and evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.envs.data.sample_batch import sample_batch
from spangym.envs.model.model_optimizer import ModelOptimizer
from spangym.experiments.pilot.evaluate_model import evaluate_model, run_model
from spangym.experiments.pilot.models import PilotModel
from spangym.experiments.pilot.pilot_study import CONTROLLABLE_ATTENTION, PilotStudy, VariantConfig
from spangym.experiments.pilot.pilot_tasks import Task, batch_rngs
from spangym.experiments.pilot.span_policies import RandomSpans, SpanPolicy
from spangym.experiments.trials.tensorboard import TrialLogger

_NUM_LOG_ROWS = 100


class Trainer:
    """Trains a model; every variant reads the same batches in the same order.

    A batch is an *episode*: streams of ``task.chunks`` chunks, with one update a chunk.

    Attributes:
        optimizer: Optimizer of the model.
        span_policy: Policy that sets the spans in evaluations.
        random_spans: Policy of the episodes at random spans.
        episodes: Number of batches drawn.
        tables: Rows of the tables ``curve``, ``spans`` and ``evaluation``.
        milliseconds: Wall time of each update.
    """

    def __init__(
        self,
        study: PilotStudy,
        variant: VariantConfig,
        seed: int,
        task: Task,
        model: PilotModel,
        logger: TrialLogger,
        progress: Callable[[int], None],
    ) -> None:
        self.study = study
        self.seed = seed
        self.task = task
        self.model = model
        self.logger = logger
        self.progress = progress
        self.optimizer = ModelOptimizer(model, study.updates, study.learning_rate)
        self.span_policy = SpanPolicy()
        self.random_spans = RandomSpans(torch.Generator().manual_seed(seed))
        self.random_span_fraction = (
            study.random_span_fraction if variant.attention in CONTROLLABLE_ATTENTION else 0.0
        )
        self.cost_coef = variant.cost_coef if variant.soft_span else 0.0
        self.log_interval = max(1, study.updates // _NUM_LOG_ROWS)
        self.episodes = 0
        self.tables: dict[str, list[dict[str, Any]]] = {"curve": [], "spans": [], "evaluation": []}
        self.milliseconds: list[float] = []
        # Sums since the last log row: updates, loss, spans of all layers, pairs of all layers.
        self._sums: NDArray[np.float64] | None = None
        self._seconds = 0.0
        self._start_time = self._last_update_time = time.perf_counter()

    @property
    def updates(self) -> int:
        """Number of updates."""
        return self.optimizer.updates

    @property
    def seconds(self) -> float:
        """Wall time of the training without evaluations, in seconds, over all its processes."""
        return self._seconds + time.perf_counter() - self._start_time

    @property
    def ema_loss(self) -> float | None:
        """Moving average of the loss in bits a target; None before the first update."""
        return self.optimizer.ema_loss

    def uses_random_spans(self, episode: int) -> bool:
        """Return whether an episode is trained at random spans."""
        fraction = self.random_span_fraction
        return int((episode + 1) * fraction) > int(episode * fraction)

    def next_batch_rngs(self) -> list[np.random.Generator]:
        """Train the next episodes at random spans; return the generators of the one after them."""
        self.evaluate_if_due()
        while self.uses_random_spans(self.episodes) and self.updates < self.study.updates:
            self.run_batch(self.random_spans)
            self.evaluate_if_due()
        self.episodes += 1
        return batch_rngs(self.seed, self.episodes - 1, self.study.batch)

    def run_batch(self, span_policy: SpanPolicy) -> None:
        """Train on the next episode at the spans of a policy."""
        generators = batch_rngs(self.seed, self.episodes, self.study.batch)
        self.episodes += 1
        chunks = self.task.chunks
        # Environments draw one chunk more than they run; so do we, to read the same streams.
        batch = sample_batch(self.task.dataset, generators, chunks + 1, self.task.ctx)
        content, targets = (each[:, :chunks] for each in batch)
        for chunk in run_model(self.model, content, targets, span_policy):
            self.update_model(chunk.losses, chunk.layer_outputs)

    def update_model(self, losses: Tensor, layer_outputs: Sequence[LayerOutput]) -> None:
        """Update the model after a chunk, and log the update: see `ChunkResult`."""
        penalty = None
        if self.cost_coef:
            scales = torch.stack([each.span_scale for each in layer_outputs])
            penalty = self.cost_coef * scales.mean()
        loss = self.optimizer.step(losses, penalty)
        now = time.perf_counter()
        self.milliseconds.append((now - self._last_update_time) * 1e3)
        self._last_update_time = now
        spans = [each.span.double().mean().item() for each in layer_outputs]
        qk_pairs = [each.qk_pairs.double().mean().item() for each in layer_outputs]
        row = np.array([1, loss, *spans, *qk_pairs])
        self._sums = row if self._sums is None else self._sums + row
        if self.updates % self.log_interval == 0 or self.updates == self.study.updates:
            self._log_row(self._sums)
        self.progress(self.updates)

    def evaluate_if_due(self) -> None:
        """Evaluate the model if the next of the study's evaluations is due."""
        done = len({row["update"] for row in self.tables["evaluation"]})
        if done >= self.updates * self.study.evaluations // self.study.updates:
            return
        start_time, seconds = time.perf_counter(), round(self.seconds, 3)
        for split, examples in self.task.eval_sets.items():
            metrics = vars(
                evaluate_model(self.model, self.task, examples, self.span_policy, self.study.batch)
            )
            row = {"update": self.updates, "seconds": seconds, "split": split, **metrics}
            self.tables["evaluation"].append(row)
            self.logger.log_scalars(f"evaluation/{split}", self.updates, metrics)
        paused = time.perf_counter() - start_time
        self._start_time += paused
        self._last_update_time += paused

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the training has changed."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "episodes": self.episodes,
            "tables": self.tables,
            "milliseconds": np.array(self.milliseconds),
            "span_rng": self.random_spans.generator.get_state(),
            "sums": self._sums,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.episodes = state_dict["episodes"]
        self.tables = state_dict["tables"]
        self.milliseconds = state_dict["milliseconds"].tolist()
        self.random_spans.generator.set_state(state_dict["span_rng"])
        self._sums = state_dict["sums"]
        self._seconds = state_dict["seconds"]
        self._start_time = self._last_update_time = time.perf_counter()

    def _log_row(self, sums: NDArray[np.float64]) -> None:
        loss, *layer_means = (sums[1:] / sums[0]).tolist()
        layers = len(layer_means) // 2
        common = {"update": self.updates, "seconds": round(self.seconds, 3)}
        rows = [
            {**common, "layer": index, "span": span, "qk_pairs": qk_pairs}
            for index, (span, qk_pairs) in enumerate(
                zip(layer_means[:layers], layer_means[layers:], strict=True)
            )
        ]
        self.tables["curve"].append({**common, "loss": loss})
        self.tables["spans"] += rows
        by_layer = {
            f"{name}/layer_{row['layer']}": row[name]
            for row in rows
            for name in ("span", "qk_pairs")
        }
        self.logger.log_scalars("training", self.updates, {"loss": loss, **by_layer})
        self._sums = None
