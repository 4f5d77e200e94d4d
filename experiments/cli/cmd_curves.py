"""``spangym curves``: redraw figures."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from spangym.experiments.cli.options import Runs
from spangym.experiments.cli.terminal import echo
from spangym.experiments.pilot.pilot_run import PILOT
from spangym.experiments.plots.plot_data import Axis
from spangym.experiments.plots.plot_registry import DEFAULT_PLOTS, PLOTS
from spangym.experiments.plots.save import parse_figure_names, save_figures, save_tables
from spangym.experiments.reports.write_outputs import load_data
from spangym.experiments.runner.run_dir import RunDir, run_command
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.utils.errors import UserError

FigureFormat = StrEnum("FigureFormat", ["png", "svg", "pdf"])
TableFormat = StrEnum("TableFormat", ["csv", "markdown", "latex"])


def command(
    folders: Runs,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A figure (repeatable), or all: {', '.join(PLOTS)}. Default: reward; error and "
            "loss for a pilot."
        ),
    ] = None,
    x: Annotated[Axis, typer.Option("--x", help="Horizontal axis of learning curves.")] = "steps",
    smooth: Annotated[
        float, typer.Option(min=0, max=1, help="Smoothing window, as a fraction of the training.")
    ] = 0.1,
    format: Annotated[  # noqa: A002  (the option's name)
        list[FigureFormat] | None, typer.Option(help="Repeatable; default: png and svg.")
    ] = None,
    table: Annotated[
        list[TableFormat] | None, typer.Option(help="Also write the table (repeatable).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; default: the run's.")
    ] = None,
) -> None:
    """Redraw figures from the stored results of runs, without training.

    Several comparisons are drawn together.
    """
    pilot = next((folder for folder in folders if run_command(folder) == "pilot"), None)
    if pilot is not None and len(folders) > 1:
        raise UserError(f"{str(pilot)!r} is a pilot: pilots are drawn one at a time")
    if pilot is not None and x == "qk_pairs":
        raise UserError(
            "--x qk_pairs is for comparisons: a pilot is drawn against steps or wall; for its "
            "query-key pairs draw --figure pareto"
        )
    if out is None and len(folders) > 1:
        raise UserError("several runs are drawn together: name a folder for the files with --out")
    names = parse_figure_names(figure or DEFAULT_PLOTS["pilot" if pilot else "comparison"])
    kind = COMPARISON if pilot is None else PILOT
    runs = [RunDir[Any, Any].open(folder, kind) for folder in folders]
    if out is None:
        runs[0].check_writable()
    data = replace(load_data(runs), x=x, smooth=smooth)
    results, finished = data.results, len(data.results.finished)
    if not finished:
        raise UserError(
            f"no job is finished in {str(folders[0])!r}: resume with {runs[0].resume_command}"
        )
    place = out or Path(runs[0].name)
    place.mkdir(parents=True, exist_ok=True)
    for message in save_figures(data, names, place, format or ["png", "svg"]):
        echo(message)
    for path in save_tables(data, place, table or []):
        echo(f"written: {path}")
    if unfinished := results.missing + len(results.failed):
        echo(f"{unfinished} of {unfinished + finished} jobs are not finished and not drawn")
