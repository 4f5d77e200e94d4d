"""What the figures of a comparison are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.style import BASELINE_STYLE, LineStyle, percent, style_for

Axis = Literal["steps", "wall", "qk_pairs"]

REWARD_CURVES = "reward_curves"
"""Name of the files of the reward curves, without their endings."""


@dataclass(frozen=True)
class PlotData:
    """What figures are drawn from.

    Attributes:
        results: What was measured.
        statistics: What that says.
        x: What reward curves are drawn against: environment steps, seconds or keys visited in
            training.
        smooth: Share of a training over which a point of its curve is averaged.
    """

    results: Results
    statistics: ComparisonStats
    x: Axis = "steps"
    smooth: float = 0.1

    def line_style(self, agent: str) -> LineStyle:
        """How an agent is drawn, in all figures alike."""
        learners = self.results.learners
        return style_for(learners.index(agent)) if agent in learners else BASELINE_STYLE

    def legend(self) -> list[tuple[str, LineStyle]]:
        """The learners and their looks, and that of all that learns nothing."""
        learners = [(agent, self.line_style(agent)) for agent in self.results.learners]
        return (
            [*learners, ("non-learning baseline", BASELINE_STYLE)]
            if self.results.baselines
            else learners
        )

    def format_vars(self) -> Mapping[str, str]:
        """What stands for ``{smooth}`` in a caption."""
        return {"smooth": percent(self.smooth)}

    def filename(self, name: str) -> str:
        """Name of the files of a figure, without their endings."""
        if name != "reward":
            return name
        return REWARD_CURVES if self.x == "steps" else f"{REWARD_CURVES}_{self.x}"

    def means(self, environment: str, column: str = "return") -> dict[str, float]:
        """A column of the summaries of an environment, by agent."""
        return {
            row["agent"]: float(row[column])
            for row in to_records(self.statistics.summaries)
            if row["environment"] == environment
        }

    def best_fixed(self, environment: str) -> str | None:
        """The fixed span that does best in an environment; None if there is none."""
        means = self.means(environment)
        fixed = [each for each in self.results.fixed_span_agents if each in means]
        return max(fixed, key=means.__getitem__, default=None)
