"""HTML report of a comparison or a pilot: one file without external resources."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from spangym.experiments.plots.figure_files import svg_string
from spangym.experiments.plots.panels import NoData, Panel, legend_swatch, render_panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_names import Axis
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.style import COLORS, FG, MUTED
from spangym.experiments.reports.result_tables import (
    aggregate_table,
    by_action_tables,
    difference_table,
    footnotes,
    headlines,
    pair_table,
    sample_efficiency_table,
    score_matrix,
    separation_table,
    summary_table,
    tradeoff_table,
)
from spangym.experiments.reports.tables import Table
from spangym.utils.atomic_io import atomic_write
from spangym.utils.text import pluralize, printable, shell_join

_AXES: dict[Axis, str] = {
    "steps": "by steps",
    "wall": "by wall time",
    "qk_pairs": "by query-key pairs",
}


@dataclass(frozen=True)
class RunInfo:
    """A run's study with its name and TOML, manifest, and folder as it is written in commands."""

    title: str
    toml: str
    manifest: Mapping[str, Any]
    folder: str


@dataclass(frozen=True)
class ReportPanel:
    """A rendered panel; its ``label``, for screen readers, is unique in the report."""

    title: str
    label: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """A section: a table, panels and further tables; ``message`` replaces a missing table."""

    name: str
    title: str
    table: Table | None = None
    panels: Sequence[ReportPanel] = ()
    tables: Sequence[Table] = ()
    message: str = ""


class PanelRenderer:
    """Renders the panels of a report, with unique ids.

    Attributes:
        captions: Caption of each rendered plot, by title.
        omitted: Reason for each plot without data, by title.
    """

    def __init__(self, data: PlotData) -> None:
        self.captions: dict[str, str] = {}
        self.omitted: dict[str, str] = {}
        self._data = data
        self._count = 0

    def title(self, name: str) -> str:
        """Title of a plot."""
        return PLOTS[name].title_for(self._data)

    def panels(self, name: str, x: Axis = "steps") -> list[Panel]:
        """Panels of a plot, not yet rendered; none without data."""
        data = dataclasses.replace(self._data, x=x)
        try:
            panels = PLOTS[name].panels(data)
        except NoData as reason:
            self.omitted[self.title(name)] = str(reason)
            return []
        self.captions[self.title(name)] = PLOTS[name].caption_for(data)
        return panels

    def render(self, panel: Panel, title: str, label: str) -> ReportPanel:
        """Render a panel."""
        label = label if title in label else f"{label}: {title}"
        return ReportPanel(title, label, self.svg(render_panel(panel)))

    def svg(self, figure: Figure) -> Markup:
        """A figure as inline SVG."""
        self._count += 1
        # Matplotlib escapes the text in its SVG.
        return Markup(svg_string(figure, f"figure-{self._count}"))


def save_report(path: Path, data: PlotData, run_info: RunInfo) -> None:
    """Write the report of results and a run's description atomically."""
    templates = load_templates()
    renderer = PanelRenderer(data)
    swatches = [renderer.svg(legend_swatch(line_style)) for _, line_style in data.legend()]
    sections = _pilot_sections(renderer, data) if data.is_pilot else _sections(renderer, data)
    # Style and script are files of this package: they need no escaping.
    style, script = (Markup(_source(templates, f"report.{each}")) for each in ("css", "js"))
    html = templates.get_template("report.html").render(
        run_info=run_info,
        folder=shell_join([run_info.folder]),
        manifest=list(_flatten(run_info.manifest)),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colors=list(COLORS.items()),
        fg=FG,
        muted=MUTED,
        legend=[label for label, _ in data.legend()],
        swatches=swatches,
        results=data.results,
        is_pilot=data.is_pilot,
        metric=data.metric,
        counts=_counts(data),
        headlines=headlines(data),
        footnotes=footnotes(data),
        sections=sections,
        captions=renderer.captions,
        omitted=renderer.omitted,
    )
    with atomic_write(path) as tmp:
        tmp.write_text(html, "utf-8")


def load_templates() -> jinja2.Environment:
    """Return the HTML templates, which escape what they are given."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("spangym.experiments.reports", "templates"),
        autoescape=True,
        finalize=_escape_unseen,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _escape_unseen(value: Any) -> Any:
    """Escape what cannot be seen in a text of the template, except its line breaks."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


def _counts(data: PlotData) -> list[str]:
    results, finished = data.results, data.results.finished
    counts = {"environment": len(results.environments), "finished trial": len(finished)}
    if data.is_pilot:
        counts = {"training seed": finished["seed"].nunique(), "finished training": len(finished)}
    counts = {"variant" if data.is_pilot else "agent": len(data.legend()), **counts}
    return [pluralize(count, noun) for noun, count in counts.items()]


def _sections(renderer: PanelRenderer, data: PlotData) -> list[Section]:
    """A section for each environment of a comparison, and one for all of them."""
    plots = [(f"Return {text}", renderer.panels("reward", x)) for x, text in _AXES.items()]
    for name in ("pareto", "differences", "span_heatmap"):
        plots.append((renderer.title(name), renderer.panels(name)))
    sections = []
    for number, environment in enumerate(data.results.environments, start=1):
        table = summary_table(data, environment)
        makers = (difference_table, tradeoff_table, sample_efficiency_table)
        tables = [make(data, environment) for make in makers]
        panels = [
            renderer.render(panel, title, f"{title}, {environment}")
            for title, panels in plots
            for panel in panels
            if panel.title == environment
        ]
        sections.append(
            Section(
                f"environment-{number}",
                environment,
                table if table.rows else None,
                panels,
                [each for each in tables if each.rows],
                message="No trial is finished.",
            )
        )
    has_several = len(sections) > 1
    names = ("profiles", "probability_of_improvement", "radar")
    panels = [
        renderer.render(panel, panel.title or renderer.title(name), renderer.title(name))
        # Of one environment, the table of the environment has the scores.
        for name in (("aggregates", *names) if has_several else names)
        for panel in renderer.panels(name)
    ]
    table = aggregate_table(data) if has_several else None
    if not panels and not (table and table.rows):
        return sections
    if not has_several:
        return [*sections, Section("scores", "Scores", panels=panels)]
    matrices = [each for each in (score_matrix(data), separation_table(data)) if each.rows]
    title = "Scores over all environments"
    return [Section("scores", title, table, panels, tables=matrices), *sections]


def _pilot_sections(renderer: PanelRenderer, data: PlotData) -> list[Section]:
    """The tables of a pilot, and a section for each plot."""
    (task,) = data.results.environments
    table, tables = summary_table(data, task), (difference_table(data, task), pair_table(data))

    def panels(name: str, *axes: Axis, prefix: str = "") -> list[ReportPanel]:
        return [
            renderer.render(panel, title, renderer.title(name))
            for x in axes or ("steps",)
            for panel in renderer.panels(name, x)
            for title in [f"{prefix}{panel.title}{f', {_AXES[x]}' if axes else ''}"]
        ]

    variants = Section(
        "variants",
        "Variants",
        table if table.rows else None,
        tables=[each for each in tables if each.rows],
        message="No training is finished.",
    )
    spans = [*panels("spans", prefix="Spans of "), *panels("error_by_action")]
    compute = [*panels("pareto"), *panels("qk_pairs")]
    sections = [
        Section("error", data.metric.label, panels=panels("error", "steps", "wall")),
        Section("loss", "Loss", panels=panels("loss", "steps", "wall")),
        Section("differences", "Differences", panels=panels("differences", prefix="Difference, ")),
        Section("runtime", "Time", panels=panels("runtime")),
        Section("compute", "Query-key pairs", panels=compute),
        Section("spans", "Spans", panels=spans, tables=by_action_tables(data)),
        Section("temperature-laws", "Temperature laws", panels=panels("temperature_laws")),
        Section("attention", "Attention weights", panels=panels("attention_maps")),
    ]
    return [variants, *(each for each in sections if each.panels)]


def _source(templates: jinja2.Environment, name: str) -> str:
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0].strip()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of all nested values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}, ")
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            yield f"{prefix}{name}", shell_join(value)
        elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
            for number, each in enumerate(value, start=1):
                yield from _flatten(each, f"{prefix}{name} {number}, ")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
