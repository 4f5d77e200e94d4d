"""Input of all plots: results, their statistics, and the choices of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import SPLIT_LABELS, MetricInfo, Results
from spangym.experiments.plots.plot_names import Axis
from spangym.experiments.plots.style import BASELINE_STYLE, LineStyle, percent, style_for


@dataclass(frozen=True)
class PlotData:
    """Input of all plots.

    Attributes:
        results: Results of a comparison or a pilot.
        statistics: Statistics of the results.
        x: x axis of training curves: steps, wall time or query-key pairs (comparisons only).
        smooth: Fraction of a training over which each point of its curve is averaged.
    """

    results: Results
    statistics: ComparisonStats
    x: Axis = "steps"
    smooth: float = 0.1

    @property
    def is_pilot(self) -> bool:
        """Whether the results are those of a pilot."""
        return self.results.study_type == "pilot"

    @property
    def metric(self) -> MetricInfo:
        """The primary metric."""
        return self.results.metrics[self.results.primary]

    def line_style(self, group: str) -> LineStyle:
        """Style of a group, the same in all plots; non-learning baselines are gray."""
        styled = self.results.groups if self.is_pilot else self.results.learners
        return style_for(styled.index(group)) if group in styled else BASELINE_STYLE

    def legend(self) -> list[tuple[str, LineStyle]]:
        """Labels and styles of all groups."""
        if self.is_pilot:
            finished = set(self.results.values["group"])
            shown = [each for each in self.results.groups if each in finished]
        else:
            shown = [*self.results.learners]
        legend = [(each, self.line_style(each)) for each in shown]
        if self.results.baselines and not self.is_pilot:
            legend.append(("non-learning baseline", BASELINE_STYLE))
        return legend

    def format_vars(self) -> Mapping[str, str]:
        """Values of the placeholders in titles and captions."""
        name = self.metric.title or self.metric.label
        return {
            "smooth": percent(self.smooth),
            "Metric": name[0].upper() + name[1:],
            "baseline": self.results.baselines[0] if self.results.baselines else "",
        }

    def means(self, environment: str, metric: str = "return") -> dict[str, float]:
        """Mean of a metric in an environment by group, on the last split that has it."""
        table = self.statistics.summary
        rows = table[(table["environment"] == environment) & (table["metric"] == metric)]
        return dict(zip(rows["group"], rows["mean"].astype(float), strict=True))

    def best_fixed(self, environment: str) -> str | None:
        """The fixed span with the highest return in an environment; None if there is none."""
        return self.statistics.best_fixed.get(environment)

    def split_label(self, split: str) -> str:
        """A split of the pilot as it is named in titles."""
        return SPLIT_LABELS.get(split, split)
