"""``spangym curves``: redraw figures."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from spangym.experiments.cli.catalog import complete, figures
from spangym.experiments.cli.options import Runs
from spangym.experiments.cli.terminal import echo
from spangym.experiments.plots.plot_names import TITLES, Axis
from spangym.utils.errors import UserError

FigureFormat = StrEnum("FigureFormat", ["png", "svg", "pdf"])


def command(
    folders: Runs,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE",
            autocompletion=complete(figures),
            help=f"A figure (repeatable), or all: {', '.join(TITLES)}. Default: reward; error and "
            "loss for a pilot.",
        ),
    ] = None,
    x: Annotated[Axis, typer.Option("--x", help="Horizontal axis of learning curves.")] = "steps",
    smooth: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            min=0,
            max=1,
            help="Smoothing window, as a fraction of the training.",
        ),
    ] = 0.1,
    format: Annotated[  # noqa: A002  (the option's name)
        list[FigureFormat] | None,
        typer.Option(help="File format (repeatable); default: png and svg."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the files; default: the run's."),
    ] = None,
) -> None:
    """Redraw figures from the stored results of runs, without training.

    Several comparisons are drawn together.

    Examples:
        spangym curves runs/quickstart --x wall --smooth 0.2
        spangym curves runs/mine runs/other --figure all --format pdf --out figures
    """
    from spangym.experiments.analysis.load_results import open_runs
    from spangym.experiments.plots.plot_registry import DEFAULT_PLOTS
    from spangym.experiments.plots.save import parse_figure_names, save_figures
    from spangym.experiments.reports.write_outputs import load_data

    runs = open_runs(folders)
    is_pilot = runs[0].kind.command == "pilot"
    if is_pilot and x == "qk_pairs":
        raise UserError(
            "--x qk_pairs is for comparisons: a pilot is drawn against steps or wall; for its "
            "query-key pairs draw --figure pareto"
        )
    if out is None and len(folders) > 1:
        raise UserError("several runs are drawn together: name a folder for the files with --out")
    names = parse_figure_names(figure or DEFAULT_PLOTS["pilot" if is_pilot else "comparison"])
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
    if unfinished := results.missing + len(results.failed):
        echo(f"{unfinished} of {unfinished + finished} jobs are not finished and not drawn")
