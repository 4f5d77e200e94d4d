"""The report of a comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.plot_data import Axis, PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.reports.comparison_tables import (
    aggregate_table,
    difference_table,
    sample_efficiency_table,
    summary_tables,
)
from spangym.experiments.reports.html import FigureRenderer, ReportPanel, RunInfo, save_html
from spangym.experiments.reports.tables import Table

_OVER_ALL = ("aggregates", "profiles", "probability_of_improvement", "radar")
_BY_ENVIRONMENT = ("pareto", "differences", "span_heatmap")
_AGAINST: dict[Axis, str] = {
    "steps": "by steps",
    "wall": "by wall time",
    "qk_pairs": "by visited keys",
}


@dataclass(frozen=True)
class EnvironmentSection:
    """What the page says of one environment.

    Attributes:
        title: Label of the environment.
        summary: Its table; None if no trial is finished.
        tables: Further tables, for the learners.
        panels: Its panels.
    """

    title: str
    summary: Table | None
    tables: list[Table]
    panels: list[ReportPanel]


def save_report(
    path: Path, results: Results, statistics: ComparisonStats, run_info: RunInfo
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: The file.
        results: What was measured.
        statistics: What that says.
        run_info: What was run, and with what.
    """
    data = PlotData(results, statistics)
    renderer = FigureRenderer(PLOTS, data.legend())
    save_html(
        path,
        "report.html",
        run_info,
        renderer,
        unit="trial",
        results=results,
        verdict=statistics.verdict,
        remarks=statistics.remarks,
        over_all=_over_all(renderer, data),
        aggregates=aggregate_table(results, statistics),
        sections=_environment_sections(renderer, data),
    )


def _over_all(renderer: FigureRenderer[PlotData], data: PlotData) -> list[ReportPanel]:
    """Panels over all environments."""
    return [
        renderer.report_panel(panel, panel.title or PLOTS[name].title, PLOTS[name].title)
        for name in _OVER_ALL
        for panel in renderer.panels(name, data)
    ]


def _environment_sections(
    renderer: FigureRenderer[PlotData], data: PlotData
) -> list[EnvironmentSection]:
    """All environments, each with its tables and panels."""
    results, statistics = data.results, data.statistics
    figures = [
        (f"Return {text}", renderer.panels("reward", dataclasses.replace(data, x=x)))
        for x, text in _AGAINST.items()
    ]
    figures += [(PLOTS[name].title, renderer.panels(name, data)) for name in _BY_ENVIRONMENT]
    summaries = {table.title: table for table in summary_tables(results, statistics)}
    sections = []
    for environment in results.environments:
        tables = [
            make(results, statistics, environment)
            for make in (difference_table, sample_efficiency_table)
        ]
        panels = [
            renderer.report_panel(panel, title, f"{title}, {environment}")
            for title, each in figures
            for panel in each
            if panel.title == environment
        ]
        summary = summaries.get(environment)
        sections.append(
            EnvironmentSection(environment, summary, [each for each in tables if each.rows], panels)
        )
    return sections
