"""``spangym show``: the results of runs as text or as tables for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spangym.experiments.cli import options
from spangym.experiments.cli.terminal import echo, make_console
from spangym.utils.errors import UserError
from spangym.utils.text import pluralize, shell_join

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
    from spangym.experiments.reports.load_summary import load_summary
    from spangym.experiments.reports.result_tables import format_tables
    from spangym.experiments.reports.write_outputs import load_data
    from spangym.experiments.runner.run_dir import is_summary, summary_command

    has_summary_only = len(folders) == 1 and is_summary(folders[0])
    runs = [] if has_summary_only else open_runs(folders)
    data = load_summary(folders[0]) if has_summary_only else load_data(runs)
    is_empty = not len(data.results.finished)
    if format != "text":
        if is_empty:
            raise UserError(f"no trial is finished in {str(folders[0])!r}: there are no tables")
        print(format_tables(data, format), end="")
        return
    if not is_empty:
        print_results(make_console(), data)
    if has_summary_only:
        echo(f"summary of a run; {summary_command(folders[0])} makes a whole one")
    for run in runs:
        if unfinished := len(run.unfinished()):
            echo(
                f"{unfinished} of {len(run.jobs())} trials in {run.name} are not finished: resume "
                f"with {run.resume_command}"
            )
        if superseded := len(run.superseded()):
            command = shell_join(["spangym", "clean", run.name])
            trials = pluralize(superseded, "superseded trial")
            echo(f"{trials} in {run.name}: remove with {command}")
        if (run.path / "report.html").exists():
            echo(f"report: {Path(run.name) / 'report.html'}")
