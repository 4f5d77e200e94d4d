"""What the figures of a comparison are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spangym.experiments.analysis.comparison_stats import Statistics
from spangym.experiments.analysis.results import Rows
from spangym.experiments.plots.panels import records
from spangym.experiments.plots.style import REFERENCE, Look, look_of, percent

Axis = Literal["steps", "wall", "visited_keys"]

REWARD_CURVES = "reward_curves"
"""Name of the files of the reward curves, without their endings."""


@dataclass(frozen=True)
class Results:
    """What figures are drawn from.

    Attributes:
        rows: What was measured.
        statistics: What that says.
        x: What reward curves are drawn against: environment steps, seconds or keys visited in
            training.
        smooth: Share of a training over which a point of its curve is averaged.
    """

    rows: Rows
    statistics: Statistics
    x: Axis = "steps"
    smooth: float = 0.1

    def look(self, agent: str) -> Look:
        """How an agent is drawn, in all figures alike."""
        learners = self.rows.learners
        return look_of(learners.index(agent)) if agent in learners else REFERENCE

    def legend(self) -> list[tuple[str, Look]]:
        """The learners and their looks, and that of all that learns nothing."""
        learners = [(agent, self.look(agent)) for agent in self.rows.learners]
        return [*learners, ("learns nothing", REFERENCE)] if self.rows.references else learners

    def words(self) -> Mapping[str, str]:
        """What stands for ``{smooth}`` in a caption."""
        return {"smooth": percent(self.smooth)}

    def stem(self, name: str) -> str:
        """Name of the files of a figure, without their endings."""
        if name != "reward":
            return name
        return REWARD_CURVES if self.x == "steps" else f"{REWARD_CURVES}_{self.x}"

    def means(self, environment: str, column: str = "return") -> dict[str, float]:
        """A column of the summaries of an environment, by agent."""
        return {
            row["agent"]: float(row[column])
            for row in records(self.statistics.summaries)
            if row["environment"] == environment
        }

    def best_fixed(self, environment: str) -> str | None:
        """The fixed span that does best in an environment; None if there is none."""
        means = self.means(environment)
        fixed = [each for each in self.rows.fixed if each in means]
        return max(fixed, key=means.__getitem__, default=None)
