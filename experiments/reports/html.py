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

from spangym.experiments.plots.figure_files import svg_string
from spangym.experiments.plots.panels import NoData, Panel, legend_swatch, render_panel
from spangym.experiments.plots.spec import PlotSpec, S
from spangym.experiments.plots.style import COLORS, FG, MUTED, LineStyle
from spangym.utils.atomic_io import atomic_write


@dataclass(frozen=True)
class RunInfo:
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
class ReportPanel:
    """A panel of a page.

    Attributes:
        title: What stands above it.
        label: What it shows, for those who do not see it.
        svg: The drawing.
    """

    title: str
    label: str
    svg: Markup


class FigureRenderer(Generic[S]):
    """Draws the panels of a page, no two of which share an id.

    Attributes:
        legend: Labels of all that is told apart by its look.
        swatches: How each of them is drawn.
        omitted: Why figures were not drawn, by title.
    """

    def __init__(
        self, specs: Mapping[str, PlotSpec[S]], legend: Sequence[tuple[str, LineStyle]]
    ) -> None:
        """Draw the legend.

        Args:
            specs: The figures there are, by name.
            legend: Labels and looks of all that is told apart by its look.
        """
        self._specs = specs
        self._count = 0
        self._captions: dict[str, tuple[str, str]] = {}
        self.legend = [label for label, _ in legend]
        self.swatches = [self._svg(legend_swatch(line_style)) for _, line_style in legend]
        self.omitted: dict[str, str] = {}

    @property
    def captions(self) -> list[tuple[str, str]]:
        """Titles of the kinds of figures that were drawn, and how to read them."""
        return [self._captions[name] for name in self._specs if name in self._captions]

    def panels(self, name: str, subject: S) -> list[Panel]:
        """The panels of a kind of figure; none if there are no rows for them."""
        spec = self._specs[name]
        try:
            panels = spec.panels(subject)
        except NoData as reason:
            self.omitted[spec.title_for(subject)] = str(reason)
            return []
        self._captions[name] = (spec.title_for(subject), spec.caption_for(subject))
        return panels

    def report_panel(self, panel: Panel, title: str, label: str) -> ReportPanel:
        """A panel, with its title and what it shows."""
        label = label if title in label else f"{label}: {title}"
        return ReportPanel(title, label, self._svg(render_panel(panel)))

    def _svg(self, figure: Figure) -> Markup:
        self._count += 1
        # Matplotlib has escaped what it wrote.
        return Markup(svg_string(figure, f"figure-{self._count}"))


def save_html(
    path: Path, template: str, run_info: RunInfo, renderer: FigureRenderer[S], **content: Any
) -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file.
        template: Name of one that extends ``base.html``.
        run_info: What was run, and with what.
        renderer: What has drawn the page's panels.
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
        run_info=run_info,
        folder=shlex.quote(run_info.folder),
        manifest=list(_flattened(run_info.manifest)),
        style=style,
        script=script,
        script_hash=digest,
        colors=list(COLORS.items()),
        fg=FG,
        muted=MUTED,
        legend=renderer.legend,
        swatches=renderer.swatches,
        captions=renderer.captions,
        omitted=list(renderer.omitted.items()),
        **content,
    )
    with atomic_write(path) as tmp:
        tmp.write_text(html, "utf-8")


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
