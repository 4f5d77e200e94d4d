"""What the figures of a pilot are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spangym.experiments.pilot.metrics import MetricInfo
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.plots.style import LineStyle, percent, style_for

PilotAxis = Literal["steps", "wall"]

_IN_TRAINING = ("loss", "error", "keys", "spans")
"""Figures that have panels with trainings on them."""


@dataclass(frozen=True)
class PilotResults:
    """What figures are drawn from.

    Attributes:
        rows: What was measured.
        summary: What that says.
        x: What trainings are drawn against: updates or seconds.
        smooth: Share of a training over which a point of its curve is averaged.
    """

    rows: PilotRows
    summary: PilotSummary
    x: PilotAxis = "steps"
    smooth: float = 0.1

    @property
    def metric(self) -> MetricInfo:
        """How errors are called and written."""
        return self.summary.metric

    def line_style(self, variant: str) -> LineStyle:
        """How a variant is drawn, in all figures alike."""
        return style_for(self.rows.variants.index(variant))

    def legend(self) -> list[tuple[str, LineStyle]]:
        """The variants of which a training is finished, and their looks."""
        finished = set(self.rows.trainings["variant"])
        return [(each, self.line_style(each)) for each in self.rows.variants if each in finished]

    def format_vars(self) -> Mapping[str, str]:
        """What stands for the words in braces of titles and captions."""
        name = self.metric.name
        return {
            "smooth": percent(self.smooth),
            "error": name,
            "Error": name[0].upper() + name[1:],
            "baseline": self.rows.baseline,
        }

    def filename(self, name: str) -> str:
        """Name of the files of a figure, without their endings."""
        return f"{name}_{self.x}" if self.x != "steps" and name in _IN_TRAINING else name
