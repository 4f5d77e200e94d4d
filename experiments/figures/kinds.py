"""The kinds of figures, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from .costs import cost_panels
from .curves import reward_panels
from .intervals import aggregate_panels, difference_panels, improvement_panels
from .panels import Panel, Results, draw_together
from .scores import profile_panels, radar_panels
from .spans import span_panels
from .style import REFERENCE, Look


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure.

    Attributes:
        title: What it shows, in a few words.
        panels: Makes its panels, or raises `NothingToDraw`.
        caption: How to read it; ``{smooth}`` is the share of a training that is averaged over.
        legend: Whether its agents are told apart by their looks alone.
    """

    title: str
    panels: Callable[[Results], list[Panel]]
    caption: str
    legend: bool = True

    def caption_for(self, results: Results) -> str:
        """How to read the figure of these results."""
        return self.caption.replace("{smooth}", f"{results.smooth:.0%}".replace("%", " %"))

    def draw(self, results: Results) -> Figure:
        """Draw the figure for all environments.

        Raises:
            NothingToDraw: There are no rows for it.
        """
        legend = legend_of(results) if self.legend else []
        caption = self.caption_for(results)
        return draw_together(self.panels(results), self.title, caption, legend)


def legend_of(results: Results) -> list[tuple[str, Look]]:
    """The learners and their looks, and that of all that learns nothing."""
    learners = [(agent, results.look(agent)) for agent in results.rows.learners]
    return [*learners, ("learns nothing", REFERENCE)] if results.rows.references else learners


FIGURES: dict[str, FigureKind] = {
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
