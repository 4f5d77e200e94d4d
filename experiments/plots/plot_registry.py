"""All plots of comparisons and pilots, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from spangym.experiments.plots.attention_plots import plot_attention_maps
from spangym.experiments.plots.error_by_action import plot_error_by_action
from spangym.experiments.plots.interval_plots import (
    plot_aggregates,
    plot_differences,
    plot_probability_of_improvement,
    plot_runtime,
    plot_temperature_laws,
)
from spangym.experiments.plots.learning_curves import plot_learning_curves, plot_span_curves
from spangym.experiments.plots.panels import Panel, render_grid
from spangym.experiments.plots.pareto import plot_pareto
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_names import TITLES
from spangym.experiments.plots.scores import plot_profiles, plot_radar
from spangym.experiments.plots.span_heatmap import plot_span_heatmaps


@dataclass(frozen=True)
class PlotSpec:
    """A plot, whose title and caption have the placeholders of `PlotData.format_vars`.

    ``panels`` raises `NoData` if the results have nothing to plot. With ``has_curves`` the x axis
    is the progress of the training, so that `PlotData.x` applies.
    """

    title: str
    panels: Callable[[PlotData], list[Panel]]
    caption: str
    has_legend: bool = True
    has_curves: bool = False

    def title_for(self, data: PlotData) -> str:
        """Title with its placeholders filled in."""
        return self.title.format_map(data.format_vars())

    def caption_for(self, data: PlotData) -> str:
        """Caption with its placeholders filled in."""
        return self.caption.format_map(data.format_vars())

    def draw(self, data: PlotData) -> Figure:
        """Draw all panels in one figure; raises `NoData` without any."""
        legend = data.legend() if self.has_legend else []
        return render_grid(self.panels(data), self.title_for(data), self.caption_for(data), legend)


_CURVES = (
    "Line: mean over training seeds, up to the last step that all seeds have reached; values in "
    "training are averaged over the last {smooth} of the training. Band: 95 % interval of the "
    "mean (Student's t over the seeds; none for one seed), cut where it is far wider than the "
    "range of the lines."
)
_LOG_CURVES = f"{_CURVES} Cross: a training that ended early. Logarithmic scale."
_HOLLOW = "Hollow: inconclusive, the interval includes 0."

PLOTS = {
    "reward": PlotSpec(
        TITLES["reward"],
        partial(plot_learning_curves, metric="return"),
        f"{_CURVES} Dashed: mean evaluation return of the oracle, the best fixed span and random.",
        has_curves=True,
    ),
    "error": PlotSpec(
        TITLES["error"],
        partial(plot_learning_curves, metric="error"),
        _LOG_CURVES,
        has_curves=True,
    ),
    "loss": PlotSpec(
        TITLES["loss"],
        partial(plot_learning_curves, metric="loss"),
        _LOG_CURVES,
        has_curves=True,
    ),
    "qk_pairs": PlotSpec(
        TITLES["qk_pairs"],
        partial(plot_learning_curves, metric="qk_pairs"),
        f"{_CURVES} Query-key pairs of an episode; in a pilot those of a sequence in the local "
        "path, mean over the layers.",
        has_curves=True,
    ),
    "spans": PlotSpec(
        TITLES["spans"],
        plot_span_curves,
        f"Mean span of the training sequences, one line for each layer. {_CURVES}",
        has_legend=False,
        has_curves=True,
    ),
    "pareto": PlotSpec(
        TITLES["pareto"],
        plot_pareto,
        "Mean over training seeds, with its 95 % interval. Line: the best value at each cost, "
        "without the oracle, which looks ahead. Numbers: fixed spans by action; triangle: a value "
        "below the lower edge. Query-key pairs are counted in evaluation over all refinement "
        "passes; dashed, in a pilot: one pass of full attention.",
    ),
    "differences": PlotSpec(
        TITLES["differences"],
        plot_differences,
        "Mean difference from the best fixed span (in a pilot: from plain attention), paired by "
        f"training seed and evaluation episode, with its 95 % interval. {_HOLLOW}",
        has_legend=False,
    ),
    "aggregates": PlotSpec(
        TITLES["aggregates"],
        plot_aggregates,
        "Over all runs, with 95 % intervals. The interquartile mean leaves out the best and the "
        "worst quarter of the runs; the optimality gap is the mean distance from the oracle.",
        has_legend=False,
    ),
    "profiles": PlotSpec(
        TITLES["profiles"],
        plot_profiles,
        "Fraction of runs, over environments and training seeds, with a score above a threshold; "
        "further up and right is better. Band: 95 % interval. Gray: the best fixed span.",
    ),
    "probability_of_improvement": PlotSpec(
        TITLES["probability_of_improvement"],
        plot_probability_of_improvement,
        "Probability that a run of the first has a higher return than a run of the second, with "
        "its 95 % interval (none for 0 and 1). An interval that includes 0.5 is inconclusive.",
        has_legend=False,
    ),
    "radar": PlotSpec(
        TITLES["radar"],
        plot_radar,
        "Mean score in each environment: 0 for random, 1 for the oracle. Dashed: the best fixed "
        "span of each environment.",
    ),
    "span_heatmap": PlotSpec(
        TITLES["span_heatmap"],
        plot_span_heatmaps,
        "Mean span in tokens of the decisions in evaluation, over all training seeds.",
        has_legend=False,
    ),
    "runtime": PlotSpec(
        TITLES["runtime"],
        plot_runtime,
        "Mean over training seeds with its 95 % interval: wall time of a training without its "
        "evaluations and, in a pilot, the median time of an update and its ratio to that of plain "
        "attention on the same seeds.",
        has_legend=False,
    ),
    "error_by_action": PlotSpec(
        TITLES["error_by_action"],
        plot_error_by_action,
        "Trained models with the same action in every layer, from 0 (no local path) to 9 (the "
        "longest span); mean over training seeds. Dashed: {baseline}, which has no spans.",
    ),
    "temperature_laws": PlotSpec(
        TITLES["temperature_laws"],
        plot_temperature_laws,
        "Mean difference of the final errors on the same training seeds, with its 95 % interval. "
        f"{_HOLLOW}",
        has_legend=False,
    ),
    "attention_maps": PlotSpec(
        TITLES["attention_maps"],
        plot_attention_maps,
        "Weights of an example in the model of the first seed, mean over heads: queries from top "
        "to bottom, keys from left to right; only the end of a long sequence. Color: square root "
        "of the weight, up to the largest weight of each map. Title: mean entropy of the weights. "
        "Off: the path is not used.",
        has_legend=False,
    ),
}
DEFAULT_PLOTS = {"comparison": ("reward",), "pilot": ("error", "loss")}
"""Plots that are drawn beside the report, by type of study."""
