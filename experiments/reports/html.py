"""Pages of results: one HTML file each that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from spangym.experiments.plots.figure_files import inline_svg
from spangym.experiments.plots.panels import NothingToDraw, Panel, draw_alone, draw_handle
from spangym.experiments.plots.spec import FigureKind, S
from spangym.experiments.plots.style import COLOURS, FAINT, INK, Look
from spangym.utils.atomic_io import written_whole


@dataclass(frozen=True)
class Facts:
    """What a page says of a run beside its rows.

    Attributes:
        title: Name of what was run.
        toml: What was run: the study, or the pilot's plan.
        manifest: What the run was made with, ready for JSON.
        folder: The run's folder, as it is written in commands.
    """

    title: str
    toml: str
    manifest: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Picture:
    """A panel of a page.

    Attributes:
        title: What stands above it.
        label: What it shows, for those who do not see it.
        svg: The drawing.
    """

    title: str
    label: str
    svg: Markup


class Drawer(Generic[S]):
    """Draws the panels of a page, no two of which share an id.

    Attributes:
        legend: Labels of all that is told apart by its look.
        swatches: How each of them is drawn.
        omitted: Why figures were not drawn, by title.
    """

    def __init__(
        self, kinds: Mapping[str, FigureKind[S]], legend: Sequence[tuple[str, Look]]
    ) -> None:
        """Draw the legend.

        Args:
            kinds: The figures there are, by name.
            legend: Labels and looks of all that is told apart by its look.
        """
        self._kinds = kinds
        self._count = 0
        self._captions: dict[str, tuple[str, str]] = {}
        self.legend = [label for label, _ in legend]
        self.swatches = [self._svg(draw_handle(look)) for _, look in legend]
        self.omitted: dict[str, str] = {}

    @property
    def captions(self) -> list[tuple[str, str]]:
        """Titles of the kinds of figures that were drawn, and how to read them."""
        return [self._captions[name] for name in self._kinds if name in self._captions]

    def panels(self, name: str, subject: S) -> list[Panel]:
        """The panels of a kind of figure; none if there are no rows for them."""
        kind = self._kinds[name]
        try:
            panels = kind.panels(subject)
        except NothingToDraw as reason:
            self.omitted[kind.title_for(subject)] = str(reason)
            return []
        self._captions[name] = (kind.title_for(subject), kind.caption_for(subject))
        return panels

    def picture(self, panel: Panel, title: str, label: str) -> Picture:
        """A panel, with its title and what it shows."""
        label = label if title in label else f"{label}: {title}"
        return Picture(title, label, self._svg(draw_alone(panel)))

    def _svg(self, figure: Figure) -> Markup:
        self._count += 1
        # Matplotlib has escaped what it wrote.
        return Markup(inline_svg(figure, f"figure-{self._count}"))


def write_page(path: Path, template: str, facts: Facts, drawer: Drawer[S], **content: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file.
        template: Name of one that extends ``base.html``.
        facts: What was run, and with what.
        drawer: What has drawn the page's panels.
        content: What else the template shows.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("spangym.experiments.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is inline is neither HTML nor made from the rows.
    style, script = (Markup(_source(templates, f"report.{each}")) for each in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = templates.get_template(template).render(
        facts=facts,
        folder=shlex.quote(facts.folder),
        manifest=list(_flattened(facts.manifest)),
        style=style,
        script=script,
        script_hash=digest,
        colours=list(COLOURS.items()),
        ink=INK,
        faint=FAINT,
        legend=drawer.legend,
        swatches=drawer.swatches,
        captions=drawer.captions,
        omitted=list(drawer.omitted.items()),
        **content,
    )
    with written_whole(path) as aside:
        aside.write_text(html, "utf-8")


def _source(templates: jinja2.Environment, name: str) -> str:
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0].strip()


def _flattened(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of all values, however deep."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{before}{name}, ")
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            yield f"{before}{name}", shlex.join(value)
        else:
            yield f"{before}{name}", value if isinstance(value, str) else json.dumps(value)
