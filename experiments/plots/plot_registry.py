"""The kinds of figures of a comparison, by name."""

from __future__ import annotations

from spangym.experiments.plots.curves import reward_panels
from spangym.experiments.plots.interval_plots import (
    aggregate_panels,
    difference_panels,
    improvement_panels,
)
from spangym.experiments.plots.pareto import cost_panels
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.scores import profile_panels, radar_panels
from spangym.experiments.plots.span_heatmap import span_panels
from spangym.experiments.plots.spec import FigureKind

FIGURES: dict[str, FigureKind[Results]] = {
    "reward": FigureKind(
        "Return in training",
        reward_panels,
        "Line: mean over training seeds of the return of an episode, averaged over the {smooth} of "
        "the training before. Band: 95 % interval of that mean, by Student's t over the seeds; "
        "none for one seed, and cut off where it is far wider than the lines lie apart. Dashed: "
        "mean return in evaluation of the oracle, the best fixed span and random.",
    ),
    "profiles": FigureKind(
        "Performance profiles",
        profile_panels,
        "Share of all runs, over environments and training seeds, that score higher than a "
        "threshold; further up and right is better. Band: 95 % interval. Grey: the best fixed "
        "span.",
    ),
    "improvement": FigureKind(
        "Probability of improvement",
        improvement_panels,
        "Probability that a run of the first returns more than one of the second, with its 95 % "
        "interval; there is none where all runs say the same. An interval that reaches over the "
        "line at 0.5 leaves open which is better.",
        legend=False,
    ),
    "aggregates": FigureKind(
        "Scores over all environments",
        aggregate_panels,
        "Over all runs, with 95 % intervals. The interquartile mean leaves out the best and the "
        "worst quarter of the runs; the optimality gap is what is missing to the oracle.",
        legend=False,
    ),
    "radar": FigureKind(
        "Scores by environment",
        radar_panels,
        "Mean score in each environment: 0 for random, 1 for the oracle. Dashed: the best fixed "
        "span of each environment.",
    ),
    "spans": FigureKind(
        "Spans by layer and content",
        span_panels,
        "Mean span in tokens of the decisions in evaluation, over all training seeds.",
        legend=False,
    ),
    "pareto": FigureKind(
        "Quality against cost",
        cost_panels,
        "Mean over training seeds. Numbers: fixed spans by their action. Line: the best return "
        "that was reached at each cost, but by the oracle, which looks ahead. A triangle at the "
        "lower edge stands for less.",
    ),
    "differences": FigureKind(
        "Differences from the best fixed span",
        difference_panels,
        "Mean difference in return on the same training seeds and streams, with its 95 % interval. "
        "Hollow: the seeds are too few to tell.",
        legend=False,
    ),
}
