"""TensorBoard events of a trial, under the same names for every agent."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from spangym.experiments.plots.panels import render_panel
from spangym.experiments.plots.span_heatmap import mean_spans, plot_span_heatmap
from spangym.utils.text import printable


class TrialLogger:
    """TensorBoard events of one trial, or of one training of the pilot, in its folder.

    Scalars ``training/...`` for each episode of the training (return, reward components, mean span,
    query-key pairs) and ``evaluation/...`` after it, histograms ``training/actions`` and
    ``evaluation/actions``, the figure ``evaluation/spans``, and hyperparameters with metrics (the
    HParams tab).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._writer: SummaryWriter | None = None

    def open(self, steps: int) -> None:
        """Start or resume a training; events after ``steps`` are purged, as they come again."""
        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=steps + 1 if steps else None)

    def close(self) -> None:
        """Write all pending events."""
        if self._writer is not None:
            self._writer.close()

    def log_scalars(self, phase: str, steps: int, *rows: Mapping[str, float]) -> None:
        """Log the values of each row as ``PHASE/NAME`` at a training step; NaN is left out."""
        values = [
            Summary.Value(tag=_tag(phase, name), simple_value=value)
            for row in rows
            for name, value in row.items()
            if not math.isnan(value)
        ]
        # One event: SummaryWriter.add_scalar opens the file again for each value.
        self._events._get_file_writer().add_summary(Summary(value=values), steps)

    def log_action_histogram(
        self, counts: NDArray[np.int64], steps: int, phase: str = "training"
    ) -> None:
        """Log how often each action was chosen: counts of shape (actions,)."""
        values = np.arange(len(counts), dtype=np.float64)
        self._events.add_histogram_raw(
            f"{phase}/actions",
            min=0.0,
            max=values[-1].item(),
            num=int(counts.sum()),
            sum=float(counts @ values),
            sum_squares=float(counts @ values**2),
            bucket_limits=(values + 0.5).tolist(),
            bucket_counts=counts.tolist(),
            global_step=steps,
        )

    def log_evaluation(
        self,
        hyperparameters: Mapping[str, Any],
        episodes: pd.DataFrame,
        action_counts: pd.DataFrame,
        measures: Mapping[str, float | None],
        num_actions: int,
        steps: int,
    ) -> None:
        """Log the evaluation of an agent after its training steps.

        Episodes are rows of `evaluate`, counts those of `count_actions`; further measures, such as
        the regret, are None if they were not taken.
        """
        metrics = {
            f"evaluation/{name}": float(episodes[name].to_numpy(float).mean())
            for name in ("return", "mean_span", "qk_pairs")
        }
        metrics |= {
            f"evaluation/{name}": value for name, value in measures.items() if value is not None
        }
        for name, value in metrics.items():
            self._events.add_scalar(name, value, steps)
        counts = np.zeros(num_actions, np.int64)
        np.add.at(
            counts, action_counts["action"].to_numpy(int), action_counts["count"].to_numpy(int)
        )
        self.log_action_histogram(counts, steps, "evaluation")
        environment, agent = hyperparameters["environment"], hyperparameters["agent"]
        grids = mean_spans(action_counts.assign(environment=environment, group=agent))
        panel = plot_span_heatmap(environment, {agent: grids[environment, agent]})
        self._events.add_figure("evaluation/spans", render_panel(panel), steps)
        # Like SummaryWriter.add_hparams, which would start another run in a folder of its own.
        for summary in hparams(_flatten(hyperparameters), metrics):
            self._events._get_file_writer().add_summary(summary)

    @property
    def _events(self) -> SummaryWriter:
        assert self._writer is not None, "call open() first"
        return self._writer


@functools.cache
def _tag(phase: str, name: str) -> str:
    return printable(f"{phase}/{name}")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            is_number = isinstance(value, bool | int | float)
            flat[printable(prefix + name)] = value if is_number else printable(value)
    return flat
