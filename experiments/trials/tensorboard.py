"""What a trial shows in TensorBoard: the same names for every agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from spangym.attention import NUM_ACTIONS
from spangym.experiments.plots.panels import render_panel
from spangym.experiments.plots.span_heatmap import mean_spans, plot_span_heatmap
from spangym.experiments.studies.study import OBS_FIELDS, Trial

_EVAL_COLUMNS = ("return", "mean_span", "qk_pairs")


class TrialLogger:
    """TensorBoard events of one trial.

    Scalars ``training/...`` for each episode of the training (return, parts of the reward, mean
    span, visited keys) and ``evaluation/...`` at its end, histograms ``training/actions`` and
    ``evaluation/actions``, the figure ``evaluation/spans``, and the hyperparameters with what came
    of them (the HParams tab).

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._writer: SummaryWriter | None = None

    def close(self) -> None:
        """Write what is not yet written."""
        if self._writer is not None:
            self._writer.close()

    def open(self, steps: int) -> None:
        """Begin a training, or go on with one: what was shown of later steps comes again."""
        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=steps + 1 if steps else None)

    def log_episode(self, stats: Mapping[str, float], steps: int) -> None:
        """Show an episode of the training.

        Args:
            stats: By name.
            steps: Of the training so far.
        """
        for name, value in stats.items():
            self._events.add_scalar(f"training/{name}", value, steps)

    def log_action_histogram(
        self, counts: NDArray[np.int64], steps: int, phase: str = "training"
    ) -> None:
        """Show what was chosen.

        Args:
            counts: How often each action was, shape (10,).
            steps: Of the training so far.
            phase: ``training`` or ``evaluation``.
        """
        values = np.arange(NUM_ACTIONS, dtype=np.float64)
        self._events.add_histogram_raw(
            f"{phase}/actions",
            min=0.0,
            max=float(NUM_ACTIONS - 1),
            num=int(counts.sum()),
            sum=float(counts @ values),
            sum_squares=float(counts @ values**2),
            bucket_limits=(values + 0.5).tolist(),
            bucket_counts=counts.tolist(),
            global_step=steps,
        )

    def log_evaluation(
        self,
        trial: Trial,
        episodes: pd.DataFrame,
        action_counts: pd.DataFrame,
        regret: float | None,
    ) -> None:
        """Show what the trained agent does in evaluation.

        Args:
            trial: The trial.
            episodes: A row an episode.
            action_counts: What was chosen, as `spangym.experiments.trials.evaluate.count_actions` counts.
            regret: Mean of a decision; None if it was not measured.
        """
        metrics = {
            f"evaluation/{name}": float(episodes[name].to_numpy(float).mean())
            for name in _EVAL_COLUMNS
        }
        if regret is not None:
            metrics["evaluation/regret"] = regret
        for name, value in metrics.items():
            self._events.add_scalar(name, value, trial.total_timesteps)
        counts = np.zeros(NUM_ACTIONS, np.int64)
        np.add.at(
            counts, action_counts["action"].to_numpy(int), action_counts["count"].to_numpy(int)
        )
        self.log_action_histogram(counts, trial.total_timesteps, "evaluation")
        environment, agent = trial.environment.name, trial.agent.name
        grids = mean_spans(action_counts.assign(environment=environment, group=agent))
        panel = plot_span_heatmap(environment, {agent: grids[environment, agent]})
        self._events.add_figure("evaluation/spans", render_panel(panel), trial.total_timesteps)
        # As SummaryWriter.add_hparams does it, but within this run, not in one of its own.
        for summary in hparams(hyperparameters(trial), metrics):
            self._events._get_file_writer().add_summary(summary)

    @property
    def _events(self) -> SummaryWriter:
        assert self._writer is not None, "open() comes first"
        return self._writer


def hyperparameters(trial: Trial) -> dict[str, bool | int | float | str]:
    """What TensorBoard's HParams tab is to tell trials apart by."""
    agent = trial.agent
    return {
        "environment": trial.environment.name,
        "agent": agent.name,
        "seed": trial.seed,
        "total_timesteps": trial.total_timesteps,
        "n_envs": trial.n_envs,
        **{name: getattr(agent, name) for name in OBS_FIELDS},
        **_flat(agent.hyperparameters),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            plain = isinstance(value, bool | int | float | str)
            flat[prefix + name] = value if plain else str(value)
    return flat
