"""The kinds of figures of a comparison, by name."""

from __future__ import annotations

from spangym.experiments.plots.curves import plot_reward_curves
from spangym.experiments.plots.interval_plots import (
    plot_aggregates,
    plot_differences,
    plot_probability_of_improvement,
)
from spangym.experiments.plots.pareto import plot_pareto
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.scores import plot_profiles, plot_radar
from spangym.experiments.plots.span_heatmap import plot_span_heatmaps
from spangym.experiments.plots.spec import PlotSpec

PLOTS: dict[str, PlotSpec[PlotData]] = {
    "reward": PlotSpec(
        "Return in training",
        plot_reward_curves,
        "Line: mean over training seeds of the return of an episode, averaged over the {smooth} of "
        "the training before. Band: 95 % interval of that mean, by Student's t over the seeds; "
        "none for one seed, and cut off where it is far wider than the lines lie apart. Dashed: "
        "mean return in evaluation of the oracle, the best fixed span and random.",
    ),
    "profiles": PlotSpec(
        "Performance profiles",
        plot_profiles,
        "Share of all runs, over environments and training seeds, that score higher than a "
        "threshold; further up and right is better. Band: 95 % interval. Gray: the best fixed "
        "span.",
    ),
    "probability_of_improvement": PlotSpec(
        "Probability of improvement",
        plot_probability_of_improvement,
        "Probability that a run of the first returns more than one of the second, with its 95 % "
        "interval; there is none where all runs say the same. An interval that reaches over the "
        "line at 0.5 is inconclusive.",
        legend=False,
    ),
    "aggregates": PlotSpec(
        "Scores over all environments",
        plot_aggregates,
        "Over all runs, with 95 % intervals. The interquartile mean leaves out the best and the "
        "worst quarter of the runs; the optimality gap is what is missing to the oracle.",
        legend=False,
    ),
    "radar": PlotSpec(
        "Scores by environment",
        plot_radar,
        "Mean score in each environment: 0 for random, 1 for the oracle. Dashed: the best fixed "
        "span of each environment.",
    ),
    "span_heatmap": PlotSpec(
        "Spans by layer and content",
        plot_span_heatmaps,
        "Mean span in tokens of the decisions in evaluation, over all training seeds.",
        legend=False,
    ),
    "pareto": PlotSpec(
        "Return vs. compute",
        plot_pareto,
        "Mean over training seeds. Numbers: fixed spans by their action. Line: the best return "
        "that was reached at each cost, but by the oracle, which looks ahead. A triangle at the "
        "lower edge stands for less.",
    ),
    "differences": PlotSpec(
        "Differences from the best fixed span",
        plot_differences,
        "Mean difference in return on the same training seeds and streams, with its 95 % interval. "
        "Hollow: the seeds are too few to tell.",
        legend=False,
    ),
}
