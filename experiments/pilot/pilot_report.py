"""The report of a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spangym.experiments.pilot.figures.kinds import PILOT_PLOTS
from spangym.experiments.pilot.figures.results import PilotAxis, PilotResults
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_tables import by_span_tables, difference_table, pilot_table
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.reports.html import FigureRenderer, ReportPanel, RunInfo, save_html
from spangym.experiments.reports.tables import Table

_AGAINST: dict[PilotAxis, str] = {"steps": "by updates", "wall": "by wall time"}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: By which it is linked to.
        title: What stands above it.
        panels: Its panels.
        tables: What stands below them.
    """

    name: str
    title: str
    panels: list[ReportPanel]
    tables: Sequence[Table] = ()


def save_pilot_report(
    path: Path, rows: PilotRows, summary: PilotSummary, run_info: RunInfo
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: The file.
        rows: What was measured.
        summary: What that says.
        run_info: What was run, and with what.
    """
    results = PilotResults(rows, summary)
    renderer = FigureRenderer(PILOT_PLOTS, results.legend())
    spans = [*_panels(renderer, results, "spans"), *_panels(renderer, results, "by_span")]
    sections = [
        Section("error", summary.metric.title, _against(renderer, results, "error")),
        Section("loss", "Loss", _against(renderer, results, "loss")),
        Section("runtime", "Time", _panels(renderer, results, "runtime")),
        Section("keys", "Visited keys", _panels(renderer, results, "keys")),
        Section("spans", "Spans", spans, by_span_tables(rows, summary)),
        Section("laws", "Temperature laws", _panels(renderer, results, "laws")),
        Section("attention", "Attention weights", _panels(renderer, results, "attention")),
    ]
    save_html(
        path,
        "pilot.html",
        run_info,
        renderer,
        unit="training",
        results=rows,
        verdict=summary.verdict,
        remarks=summary.remarks,
        seeds=len(set(rows.trainings["seed"])),
        tables=[
            table
            for table in (pilot_table(rows, summary), difference_table(rows, summary))
            if table.rows
        ],
        sections=[each for each in sections if each.panels],
        metric=summary.metric,
    )


def _against(
    renderer: FigureRenderer[PilotResults], results: PilotResults, name: str
) -> list[ReportPanel]:
    """Panels of a figure of trainings, against updates and against wall time."""
    return [
        renderer.report_panel(panel, title, f"{PILOT_PLOTS[name].title_for(results)}: {title}")
        for x, text in _AGAINST.items()
        for panel in renderer.panels(name, replace(results, x=x))
        for title in [f"{panel.title}, {text}"]
    ]


def _panels(
    renderer: FigureRenderer[PilotResults], results: PilotResults, name: str
) -> list[ReportPanel]:
    return [
        renderer.report_panel(panel, title, f"{PILOT_PLOTS[name].title_for(results)}: {title}")
        for panel in renderer.panels(name, results)
        for title in [f"Spans of {panel.title}" if name == "spans" else panel.title]
    ]
