"""``spangym show``: the results of runs as text or as tables for other programs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.terminal import echo, make_console
from spangym.utils.errors import UserError
from spangym.utils.text import shell_join

Format = Literal["text", "markdown", "latex", "csv"]


def command(
    folders: options.Runs,
    format: Annotated[  # noqa: A002  (the option's name)
        Format, typer.Option(help="Everything as text, or the tables alone.")
    ] = "text",
) -> None:
    """Print the results of runs: tables, conclusions, and what is not finished.

    Several comparisons are shown together.

    Examples:
        spangym show runs/quickstart
        spangym show runs/quickstart --format latex > table.tex
        spangym show runs/mine runs/other
    """
    from spangym.experiments.analysis.load_results import open_runs
    from spangym.experiments.cli.print_results import print_results
    from spangym.experiments.reports.result_tables import format_tables
    from spangym.experiments.reports.write_outputs import load_data

    runs = open_runs(folders)
    data = load_data(runs)
    if format != "text":
        if not len(data.results.finished):
            raise UserError(
                f"no job is finished in {runs[0].name!r}: resume with {runs[0].resume_command}"
            )
        print(format_tables(data, format), end="")
        return
    if len(data.results.finished):
        print_results(make_console(), data)
    for run in runs:
        unfinished, jobs = len(run.unfinished()), len(run.jobs())
        if unfinished:
            echo(
                f"{unfinished} of {jobs} trials in {run.name} are not finished: resume with "
                + run.resume_command
            )
        if superseded := run.superseded():
            command = shell_join(["spangym", "clean", run.name])
            echo(f"{len(superseded)} superseded trials in {run.name}: remove with {command}")
        if (run.path / "report.html").exists():
            echo(f"report: {run.name}/report.html")
