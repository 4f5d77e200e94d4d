"""Figures and tables of a pilot as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spangym.experiments.pilot.figures.kinds import PILOT_PLOTS
from spangym.experiments.pilot.figures.results import PilotAxis, PilotResults
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_tables import (
    by_span_csv,
    by_span_tables,
    pilot_csv,
    pilot_table,
)
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.plots.save import save_figures, save_table_files


def save_pilot_figures(
    rows: PilotRows,
    summary: PilotSummary,
    names: Sequence[str],
    folder: Path,
    formats: Sequence[str],
    *,
    x: PilotAxis = "steps",
    smooth: float = 0.1,
) -> list[str]:
    """Draw figures of a pilot to files.

    Args:
        rows: What was measured.
        summary: What that says.
        names: Of `spangym.experiments.pilot.figures.PILOT_PLOTS`.
        folder: Where the files go; it must be there.
        formats: Endings, of ``png``, ``svg`` and ``pdf``.
        x: What trainings are drawn against: updates or seconds.
        smooth: Share of a training over which a point of its curve is averaged.

    Returns:
        A line for each file that was written, and for each figure that was not.

    Raises:
        UserError: None of them has anything to draw.
    """
    results = PilotResults(rows, summary, x, smooth)
    return save_figures(PILOT_PLOTS, results, names, folder, formats)


def save_pilot_tables(
    rows: PilotRows, summary: PilotSummary, folder: Path, formats: Sequence[str]
) -> Iterator[Path]:
    """Write ``table`` and, where there are spans, ``by_span`` to files.

    Args:
        rows: What was measured.
        summary: What that says.
        folder: Where the files go; it must be there.
        formats: Of ``csv``, ``markdown`` and ``latex``.

    Yields:
        What was written.
    """
    main = [pilot_table(rows, summary)]
    yield from save_table_files("table", main, lambda: pilot_csv(summary), folder, formats)
    by_span = by_span_tables(rows, summary)
    if by_span:
        yield from save_table_files(
            "by_span", by_span, lambda: by_span_csv(summary), folder, formats
        )
