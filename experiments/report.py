"""The report of a comparison: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ..agents.files import written_whole
from .figures import FIGURES, legend_of
from .figures.files import inline_svg
from .figures.panels import Axis, NothingToDraw, Panel, Results, draw_alone, draw_handle
from .figures.style import COLOURS, FAINT, INK
from .result_tables import (
    Table,
    aggregate_table,
    difference_table,
    learning_table,
    summary_tables,
)
from .rows import Rows
from .statistics import Statistics

_OVER_ALL = ("aggregates", "profiles", "improvement", "radar")
_BY_ENVIRONMENT = ("pareto", "differences", "spans")
_AGAINST: dict[Axis, str] = {
    "steps": "by steps",
    "wall": "by wall time",
    "visited_keys": "by visited keys",
}


@dataclass(frozen=True)
class Facts:
    """What a report says of a run beside its rows.

    Attributes:
        title: Name of the study.
        study: The study as TOML.
        manifest: What the run was made with, ready for JSON.
        folder: The run's folder, as it is written in commands.
    """

    title: str
    study: str
    manifest: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class Picture:
    """A panel of the page.

    Attributes:
        title: What stands above it.
        label: What it shows, for those who do not see it.
        svg: The drawing.
    """

    title: str
    label: str
    svg: Markup


@dataclass(frozen=True)
class Part:
    """What the page says of one environment.

    Attributes:
        title: Label of the environment.
        summary: Its table; None if no trial is finished.
        tables: Further tables, for the learners.
        pictures: Its panels.
    """

    title: str
    summary: Table | None
    tables: list[Table]
    pictures: list[Picture]


def write_report(path: Path, rows: Rows, statistics: Statistics, facts: Facts) -> None:
    """Write the report, whole or not at all.

    Args:
        path: The file.
        rows: What was measured.
        statistics: What that says.
        facts: What was run, and with what.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("spangym.experiments", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is inline is neither HTML nor made from the rows.
    style, script = (Markup(_source(templates, f"report.{each}")) for each in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    results = Results(rows, statistics)
    drawer = _Drawer(results)
    html = templates.get_template("report.html").render(
        facts=facts,
        folder=shlex.quote(facts.folder),
        manifest=list(_flattened(facts.manifest)),
        rows=rows,
        statistics=statistics,
        style=style,
        script=script,
        script_hash=digest,
        colours=list(COLOURS.items()),
        ink=INK,
        faint=FAINT,
        legend=[label for label, _ in legend_of(results)],
        swatches=drawer.swatches(),
        over_all=drawer.over_all(),
        aggregates=aggregate_table(rows, statistics),
        parts=drawer.parts(),
        captions=[
            (kind.title, kind.caption_for(results))
            for name, kind in FIGURES.items()
            if name in drawer.drawn
        ],
        omitted=list(drawer.omitted.items()),
    )
    with written_whole(path) as aside:
        aside.write_text(html, "utf-8")


class _Drawer:
    """Draws the panels of a page, no two of which share an id."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._count = 0
        self.drawn: set[str] = set()
        self.omitted: dict[str, str] = {}

    def swatches(self) -> list[Markup]:
        """How each agent of the legend is drawn."""
        return [self._svg(draw_handle(look)) for _, look in legend_of(self._results)]

    def over_all(self) -> list[Picture]:
        """Panels over all environments."""
        return [
            self._picture(panel, panel.title or FIGURES[name].title, FIGURES[name].title)
            for name in _OVER_ALL
            for panel in self._panels(name, self._results)
        ]

    def parts(self) -> list[Part]:
        """All environments, each with its tables and panels."""
        results = self._results
        rows, statistics = results.rows, results.statistics
        panels = [
            ("reward", f"Return {text}", self._panels("reward", dataclasses.replace(results, x=x)))
            for x, text in _AGAINST.items()
        ]
        panels += [
            (name, FIGURES[name].title, self._panels(name, results)) for name in _BY_ENVIRONMENT
        ]
        summaries = {table.title: table for table in summary_tables(rows, statistics)}
        parts = []
        for environment in rows.environments:
            tables = [
                make(rows, statistics, environment) for make in (difference_table, learning_table)
            ]
            pictures = [
                self._picture(panel, title, f"{title}, {environment}")
                for _, title, each in panels
                for panel in each
                if panel.title == environment
            ]
            summary = summaries.get(environment)
            parts.append(
                Part(environment, summary, [each for each in tables if each.lines], pictures)
            )
        return parts

    def _panels(self, name: str, results: Results) -> list[Panel]:
        try:
            panels = FIGURES[name].panels(results)
        except NothingToDraw as reason:
            self.omitted[FIGURES[name].title] = str(reason)
            return []
        self.drawn.add(name)
        return panels

    def _picture(self, panel: Panel, title: str, label: str) -> Picture:
        label = label if title in label else f"{label}: {title}"
        return Picture(title, label, self._svg(draw_alone(panel)))

    def _svg(self, figure: Figure) -> Markup:
        self._count += 1
        # Matplotlib has escaped what it wrote.
        return Markup(inline_svg(figure, f"figure-{self._count}"))


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
