"""Reward curves, drawn from stored rows."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..agents.files import written_whole
from .run_folder import RunFolder
from .studies import FIXED, REFERENCES, Study, Trial

FIGURE = "reward_curves"
_POINTS = 200
_SMOOTHED = 0.1
"""Share of a training over which a point of its curve is averaged."""

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_curves(folder: RunFolder, study: Study, trials: list[Trial]) -> None:
    """Draw the training curves of a run as ``reward_curves.png`` and ``.svg`` in its folder.

    Each agent's line is the mean over its training seeds of the return an episode, averaged over a
    tenth of the training; the shade reaches from the lowest seed to the highest. Dashed lines are
    returns in evaluation: of the best and the worst fixed span, of random and of the oracle.

    Args:
        folder: Where the rows are and the figures go.
        study: What was run.
        trials: Finished trials.

    Raises:
        UserError: The stored rows are damaged.
    """
    evaluation = folder.evaluation(study, trials)
    with mpl.rc_context({"svg.hashsalt": "spangym", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.subplots()
        colours = iter(_COLOURS * len(study.agents))
        labels = [entry.label for entry in study.agents]
        for label in labels:
            colour = next(colours)
            curves = [folder.curve(study, each) for each in trials if each.entry.label == label]
            _draw_agent(axes, label, colour, [curve for curve in curves if len(curve)], study.steps)
        _draw_references(axes, evaluation)
        axes.set_xlabel("environment steps of training")
        axes.set_ylabel("return an episode")
        axes.set_xlim(0, study.steps)
        axes.set_title(f"{study.name}: {study.environment.id}, training", loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", frameon=False, ncols=4)
        _save(folder, figure)


def smoothed(curve: pd.DataFrame, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A training curve on an even grid of steps.

    Args:
        curve: Rows of ``curve.csv``, at least one.
        steps: Steps of the training.

    Returns:
        Steps, and the mean return of the episodes that ended in the tenth of the training before
        each, or of those that ended last.
    """
    window = _SMOOTHED * steps
    ends, returns = curve["step"].to_numpy(float), curve["return"].to_numpy(float)
    grid = np.linspace(ends[0], ends[-1], _POINTS)
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    until = np.searchsorted(ends, grid, side="right")
    # Where no episode ended in time, those that ended last: several, if lanes ended together.
    last = np.searchsorted(ends, ends[until - 1], side="left")
    since = np.minimum(np.searchsorted(ends, grid - window, side="right"), last)
    return grid, (sums[until] - sums[since]) / (until - since)


def _draw_agent(
    axes: Axes, label: str, colour: str, curves: list[pd.DataFrame], steps: int
) -> None:
    if not curves:
        return
    grids, lines = zip(*(smoothed(curve, steps) for curve in curves), strict=True)
    grid, seeds = grids[0], np.stack(lines)
    # A dollar sign would begin a formula.
    text = label.replace("$", r"\$")
    axes.plot(grid, seeds.mean(0), color=colour, label=text, linewidth=1.8)
    axes.fill_between(grid, seeds.min(0), seeds.max(0), color=colour, alpha=0.18, linewidth=0)


def _draw_references(axes: Axes, evaluation: pd.DataFrame) -> None:
    means = {
        label: float(np.mean(rows["return"]))
        for label in REFERENCES
        if len(rows := evaluation[evaluation["agent"] == label])
    }
    fixed = sorted((label for label in FIXED if label in means), key=means.__getitem__)
    # The best and the worst, once if they are the same.
    shown = dict.fromkeys([*fixed[-1:], *fixed[:1], "random", "oracle"])
    for label in shown:
        if label not in means:
            continue
        level = means[label]
        axes.axhline(level, color="black", linestyle="--", linewidth=0.9)
        axes.annotate(
            f"{label} (evaluation)",
            (1.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )


def _save(folder: RunFolder, figure: Figure) -> None:
    # Without a date the same rows give the same file.
    for ending, metadata in (("png", {}), ("svg", {"Date": None})):
        with written_whole(folder.path / f"{FIGURE}.{ending}") as aside:
            figure.savefig(aside, dpi=150, metadata=metadata)
