"""The report of a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spangym.experiments.pilot.figures.kinds import PILOT_FIGURES
from spangym.experiments.pilot.figures.results import PilotAxis, PilotResults
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_tables import by_span_tables, difference_table, pilot_table
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.reports.html import Drawer, Facts, Picture, write_page
from spangym.experiments.reports.tables import Table

_AGAINST: dict[PilotAxis, str] = {"steps": "by updates", "wall": "by wall time"}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: By which it is linked to.
        title: What stands above it.
        pictures: Its panels.
        tables: What stands below them.
    """

    name: str
    title: str
    pictures: list[Picture]
    tables: Sequence[Table] = ()


def write_pilot_report(path: Path, rows: PilotRows, summary: PilotSummary, facts: Facts) -> None:
    """Write the report, whole or not at all.

    Args:
        path: The file.
        rows: What was measured.
        summary: What that says.
        facts: What was run, and with what.
    """
    results = PilotResults(rows, summary)
    drawer = Drawer(PILOT_FIGURES, results.legend())
    spans = [*_pictures(drawer, results, "spans"), *_pictures(drawer, results, "by_span")]
    sections = [
        Section("error", summary.measure.title, _against(drawer, results, "error")),
        Section("loss", "Loss", _against(drawer, results, "loss")),
        Section("runtime", "Time", _pictures(drawer, results, "runtime")),
        Section("keys", "Visited keys", _pictures(drawer, results, "keys")),
        Section("spans", "Spans", spans, by_span_tables(rows, summary)),
        Section("laws", "Temperature laws", _pictures(drawer, results, "laws")),
        Section("attention", "Attention weights", _pictures(drawer, results, "attention")),
    ]
    write_page(
        path,
        "pilot.html",
        facts,
        drawer,
        unit="training",
        rows=rows,
        verdict=summary.verdict,
        remarks=summary.remarks,
        seeds=len(set(rows.trainings["seed"])),
        tables=[
            table
            for table in (pilot_table(rows, summary), difference_table(rows, summary))
            if table.lines
        ],
        sections=[each for each in sections if each.pictures],
        measure=summary.measure,
    )


def _against(drawer: Drawer[PilotResults], results: PilotResults, name: str) -> list[Picture]:
    """Panels of a figure of trainings, against updates and against wall time."""
    return [
        drawer.picture(panel, title, f"{PILOT_FIGURES[name].title_for(results)}: {title}")
        for x, text in _AGAINST.items()
        for panel in drawer.panels(name, replace(results, x=x))
        for title in [f"{panel.title}, {text}"]
    ]


def _pictures(drawer: Drawer[PilotResults], results: PilotResults, name: str) -> list[Picture]:
    return [
        drawer.picture(panel, title, f"{PILOT_FIGURES[name].title_for(results)}: {title}")
        for panel in drawer.panels(name, results)
        for title in [f"Spans of {panel.title}" if name == "spans" else panel.title]
    ]
