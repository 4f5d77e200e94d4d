"""A kind of figure: how its panels are made, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from matplotlib.figure import Figure

from spangym.experiments.plots.panels import Panel, render_grid
from spangym.experiments.plots.style import LineStyle


class Subject(Protocol):
    """What figures are drawn from."""

    def legend(self) -> list[tuple[str, LineStyle]]:
        """Labels and looks of all that is told apart by its look."""
        ...

    def format_vars(self) -> Mapping[str, str]:
        """What stands for the words in braces of titles and captions."""
        ...

    def filename(self, name: str) -> str:
        """Name of the files of a figure, without their endings."""
        ...


S = TypeVar("S", bound=Subject)


@dataclass(frozen=True)
class PlotSpec(Generic[S]):
    """A kind of figure.

    Attributes:
        title: What it shows, in a few words; words in braces are those of its subject.
        panels: Makes its panels, or raises `NoData`.
        caption: How to read it; words in braces are those of its subject.
        legend: Whether what it shows is told apart by looks alone.
    """

    title: str
    panels: Callable[[S], list[Panel]]
    caption: str
    legend: bool = True

    def title_for(self, subject: S) -> str:
        """What the figure of this subject shows."""
        return self.title.format_map(subject.format_vars())

    def caption_for(self, subject: S) -> str:
        """How to read the figure of this subject."""
        return self.caption.format_map(subject.format_vars())

    def draw(self, subject: S) -> Figure:
        """Draw all panels in one figure.

        Raises:
            NoData: There are no rows for it.
        """
        legend = subject.legend() if self.legend else []
        panels = self.panels(subject)
        return render_grid(panels, self.title_for(subject), self.caption_for(subject), legend)
