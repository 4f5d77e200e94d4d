"""Prints the results of a run, at its end and for ``spangym show``."""

from __future__ import annotations

from rich.console import Console

from spangym.experiments.cli.terminal import echo
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.result_tables import footnotes, headlines, rich_result_tables
from spangym.utils.text import printable


def print_results(console: Console, data: PlotData) -> bool:
    """Print tables, footnotes and headlines; failed and stopped jobs are printed to stderr.

    Returns:
        Whether no job has failed or stopped.
    """
    results = data.results
    for table in rich_result_tables(data):
        console.print(table)
    for note in footnotes(data):
        console.print(printable(note), style="dim", markup=False, highlight=False)
    stopped = [
        (f"{group}, seed {seed}", f"stopped: {reason}") for group, seed, reason in results.stopped
    ]
    failures = [*results.failed, *stopped]
    for name, error in failures:
        echo(f"failed: {name}: {error}", error=True)
    for line in headlines(data):
        console.print(printable(line), markup=False, highlight=False)
    return not failures
