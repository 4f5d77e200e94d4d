"""The report of a comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from spangym.experiments.analysis.comparison_stats import Statistics
from spangym.experiments.analysis.results import Rows
from spangym.experiments.plots.plot_data import Axis, Results
from spangym.experiments.plots.plot_registry import FIGURES
from spangym.experiments.reports.comparison_tables import (
    aggregate_table,
    difference_table,
    learning_table,
    summary_tables,
)
from spangym.experiments.reports.html import Drawer, Facts, Picture, write_page
from spangym.experiments.reports.tables import Table

_OVER_ALL = ("aggregates", "profiles", "improvement", "radar")
_BY_ENVIRONMENT = ("pareto", "differences", "spans")
_AGAINST: dict[Axis, str] = {
    "steps": "by steps",
    "wall": "by wall time",
    "visited_keys": "by visited keys",
}


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
    results = Results(rows, statistics)
    drawer = Drawer(FIGURES, results.legend())
    write_page(
        path,
        "report.html",
        facts,
        drawer,
        unit="trial",
        rows=rows,
        verdict=statistics.verdict,
        remarks=statistics.remarks,
        over_all=_over_all(drawer, results),
        aggregates=aggregate_table(rows, statistics),
        parts=_parts(drawer, results),
    )


def _over_all(drawer: Drawer[Results], results: Results) -> list[Picture]:
    """Panels over all environments."""
    return [
        drawer.picture(panel, panel.title or FIGURES[name].title, FIGURES[name].title)
        for name in _OVER_ALL
        for panel in drawer.panels(name, results)
    ]


def _parts(drawer: Drawer[Results], results: Results) -> list[Part]:
    """All environments, each with its tables and panels."""
    rows, statistics = results.rows, results.statistics
    panels = [
        (f"Return {text}", drawer.panels("reward", dataclasses.replace(results, x=x)))
        for x, text in _AGAINST.items()
    ]
    panels += [(FIGURES[name].title, drawer.panels(name, results)) for name in _BY_ENVIRONMENT]
    summaries = {table.title: table for table in summary_tables(rows, statistics)}
    parts = []
    for environment in rows.environments:
        tables = [
            make(rows, statistics, environment) for make in (difference_table, learning_table)
        ]
        pictures = [
            drawer.picture(panel, title, f"{title}, {environment}")
            for title, each in panels
            for panel in each
            if panel.title == environment
        ]
        summary = summaries.get(environment)
        parts.append(Part(environment, summary, [each for each in tables if each.lines], pictures))
    return parts
