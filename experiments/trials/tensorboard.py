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

from spangym.attention import ACTIONS
from spangym.experiments.plots.panels import draw_alone
from spangym.experiments.plots.span_heatmap import mean_spans, span_panel
from spangym.experiments.studies.study import OBSERVATION, Trial

_JUDGED = ("return", "mean_span", "visited_keys")


class Board:
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

    def begin(self, steps: int) -> None:
        """Begin a training, or go on with one: what was shown of later steps comes again."""
        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=steps + 1 if steps else None)

    def episode(self, totals: Mapping[str, float], steps: int) -> None:
        """Show an episode of the training.

        Args:
            totals: By name.
            steps: Of the training so far.
        """
        for name, value in totals.items():
            self._events.add_scalar(f"training/{name}", value, steps)

    def actions(self, counts: NDArray[np.int64], steps: int, of: str = "training") -> None:
        """Show what was chosen.

        Args:
            counts: How often each action was, shape (10,).
            steps: Of the training so far.
            of: ``training`` or ``evaluation``.
        """
        values = np.arange(ACTIONS, dtype=np.float64)
        self._events.add_histogram_raw(
            f"{of}/actions",
            min=0.0,
            max=float(ACTIONS - 1),
            num=int(counts.sum()),
            sum=float(counts @ values),
            sum_squares=float(counts @ values**2),
            bucket_limits=(values + 0.5).tolist(),
            bucket_counts=counts.tolist(),
            global_step=steps,
        )

    def finish(
        self, trial: Trial, episodes: pd.DataFrame, choices: pd.DataFrame, regret: float | None
    ) -> None:
        """Show what the trained agent does in evaluation.

        Args:
            trial: The trial.
            episodes: A row an episode.
            choices: What was chosen, as `spangym.experiments.trials.evaluate.count_choices` counts.
            regret: Mean of a decision; None if it was not measured.
        """
        metrics = {
            f"evaluation/{name}": float(episodes[name].to_numpy(float).mean()) for name in _JUDGED
        }
        if regret is not None:
            metrics["evaluation/regret"] = regret
        for name, value in metrics.items():
            self._events.add_scalar(name, value, trial.steps)
        counts = np.zeros(ACTIONS, np.int64)
        np.add.at(counts, choices["action"].to_numpy(int), choices["decisions"].to_numpy(int))
        self.actions(counts, trial.steps, "evaluation")
        environment, agent = trial.environment.label, trial.agent.label
        grids = mean_spans(choices.assign(environment=environment, agent=agent))
        panel = span_panel(environment, {agent: grids[environment, agent]})
        self._events.add_figure("evaluation/spans", draw_alone(panel), trial.steps)
        # As SummaryWriter.add_hparams does it, but within this run, not in one of its own.
        for summary in hparams(hyperparameters(trial), metrics):
            self._events._get_file_writer().add_summary(summary)

    @property
    def _events(self) -> SummaryWriter:
        assert self._writer is not None, "begin() comes first"
        return self._writer


def hyperparameters(trial: Trial) -> dict[str, bool | int | float | str]:
    """What TensorBoard's HParams tab is to tell trials apart by."""
    agent = trial.agent
    return {
        "environment": trial.environment.label,
        "agent": agent.label,
        "seed": trial.seed,
        "steps": trial.steps,
        "lanes": trial.lanes,
        **{name: getattr(agent, name) for name in OBSERVATION},
        **_flat(agent.options),
    }


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            plain = isinstance(value, bool | int | float | str)
            flat[prefix + name] = value if plain else str(value)
    return flat
