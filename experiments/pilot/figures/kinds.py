"""The kinds of figures of a pilot, by name."""

from __future__ import annotations

from spangym.experiments.pilot.figures.attention import plot_attention
from spangym.experiments.pilot.figures.costs import plot_key, plot_runtime
from spangym.experiments.pilot.figures.curves import plot_error, plot_loss
from spangym.experiments.pilot.figures.laws import plot_law
from spangym.experiments.pilot.figures.spans import plot_by_span, plot_span
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.spec import PlotSpec

_BANDS = (
    "Line: mean over training seeds, as far as all of them got. Band: 95 % interval of that mean, "
    "by Student's t over the seeds; none for one seed, and cut off where it is far wider than the "
    "lines lie apart. A cross stands where trainings ended early. The scale is logarithmic."
)

PILOT_PLOTS: dict[str, PlotSpec[PlotData]] = {
    "error": PlotSpec("{Error} in training", plot_error, _BANDS),
    "loss": PlotSpec(
        "Loss in training",
        plot_loss,
        f"{_BANDS} The training loss is averaged over the {{smooth}} of the training before.",
    ),
    "runtime": PlotSpec(
        "Time of an update and of a training",
        plot_runtime,
        "Mean over training seeds of the median time of an update, and of the wall time of a "
        "training without its evaluations, with 95 % intervals. Behind the labels: how many times "
        "that of {baseline} on the same seeds.",
        legend=False,
    ),
    "keys": PlotSpec(
        "Error against visited keys",
        plot_key,
        "Each point is a variant, with the 95 % interval of its error, cut off where "
        "it is far wider than the points lie apart; further down and left is "
        "better. Visited keys are query-key pairs scored in evaluation, with all passes of the "
        "local path and the global path, as a share of one pass of full attention (dashed). In "
        "training: of the local path alone, averaged over layers and the {smooth} of the training "
        "before.",
    ),
    "spans": PlotSpec(
        "Spans in training",
        plot_span,
        "Mean span of the sequences that were trained on, over training seeds, averaged over the "
        "{smooth} of the training before; a line for each layer, with its 95 % interval.",
        legend=False,
    ),
    "by_span": PlotSpec(
        "{Error} at spans that are set",
        plot_by_span,
        "What the trained models do when every layer takes the same action, 0 for no local path "
        "and 9 for the longest span; mean over training seeds. Dashed: {baseline}, which has no "
        "spans.",
    ),
    "laws": PlotSpec(
        "Temperature laws",
        plot_law,
        "Mean difference of the final errors on the same training seeds, with its 95 % interval. "
        "Hollow: the seeds are too few to tell.",
        legend=False,
    ),
    "attention": PlotSpec(
        "Attention weights",
        plot_attention,
        "Weights of an example in the model of the first seed, mean over heads: queries from top "
        "to bottom, keys from left to right, of long sequences the end. The stronger the "
        "color, the more, by its square root, up to the largest weight of each map. In its "
        "title the mean entropy of the weights. Off: this path does nothing there.",
        legend=False,
    ),
}
