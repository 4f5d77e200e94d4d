"""``spangym curves``: redraw figures."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from spangym.experiments.analysis.comparison_stats import compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.cli.options import Runs
from spangym.experiments.pilot.conclusion import summarize
from spangym.experiments.pilot.figures.kinds import PILOT_PLOTS
from spangym.experiments.pilot.pilot_drawing import save_pilot_figures, save_pilot_tables
from spangym.experiments.pilot.pilot_folder import PilotFolder, is_pilot
from spangym.experiments.pilot.pilot_gathering import load_pilot_results
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.save import parse_figure_names, save_comparison_figures, save_tables
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.errors import UserError


class XAxis(StrEnum):
    """Horizontal axes of learning curves."""

    STEPS = "steps"
    WALL = "wall"
    QK_PAIRS = "qk_pairs"


class FigureFormat(StrEnum):
    """File formats of figures."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


class TableFormat(StrEnum):
    """File formats of tables."""

    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


def command(
    folders: Runs,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A figure (repeatable), or all. Of comparisons: {', '.join(PLOTS)}; default: "
            f"reward. Of a pilot: {', '.join(PILOT_PLOTS)}; default: error and loss."
        ),
    ] = None,
    x: Annotated[
        XAxis, typer.Option("--x", help="Horizontal axis of learning curves.")
    ] = XAxis.STEPS,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=1, help="Smoothing window, as a fraction of the training."),
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
    formats = [each.value for each in format or (FigureFormat.PNG, FigureFormat.SVG)]
    tables = [each.value for each in table or ()]
    draw = _draw_pilot if any(is_pilot(folder) for folder in folders) else _draw_comparison
    draw(folders, figure, x, smooth, formats, tables, out)


def _draw_comparison(
    folders: Sequence[Path],
    figures: Sequence[str] | None,
    x: XAxis,
    smooth: float,
    formats: Sequence[str],
    tables: Sequence[str],
    out: Path | None,
) -> None:
    names = parse_figure_names(figures or ["reward"], PLOTS)
    runs = [RunDir.open(folder) for folder in folders]
    if out is None and len(runs) > 1:
        raise UserError("several runs are drawn together: name a folder for the files with --out")
    place = out or runs[0].path
    if out is None:
        runs[0].check_writable()
    results = load_results(runs)
    if not len(results.trials):
        raise UserError(
            f"no trial is finished in {str(folders[0])!r}: resume with {runs[0].resume_command}"
        )
    data = PlotData(results, compute_statistics(results, np.random.default_rng(0)), x.value, smooth)
    place.mkdir(parents=True, exist_ok=True)
    for message in save_comparison_figures(data, names, place, formats):
        print(message)
    for path in save_tables(data, place, tables):
        print(f"written: {path}")
    _print_unfinished(results.missing + len(results.failed), len(results.trials), "trials")


def _draw_pilot(
    folders: Sequence[Path],
    figures: Sequence[str] | None,
    x: XAxis,
    smooth: float,
    formats: Sequence[str],
    tables: Sequence[str],
    out: Path | None,
) -> None:
    if len(folders) > 1:
        pilot = next(folder for folder in folders if is_pilot(folder))
        raise UserError(f"{str(pilot)!r} is a pilot: pilots are drawn one at a time")
    if x is XAxis.QK_PAIRS:
        raise UserError(
            "--x qk_pairs is for comparisons: a pilot is drawn against steps or wall; for its "
            "query-key pairs draw --figure keys"
        )
    names = parse_figure_names(figures or ["error", "loss"], PILOT_PLOTS)
    folder = PilotFolder.open(folders[0])
    if out is None:
        folder.check_writable()
    rows = load_pilot_results(folder)
    if not len(rows.trainings):
        raise UserError(
            f"no training is finished in {str(folders[0])!r}: resume with {folder.resume_command}"
        )
    summary = summarize(folder.study(), rows)
    place = out or folder.path
    place.mkdir(parents=True, exist_ok=True)
    against = "wall" if x is XAxis.WALL else "steps"
    for said in save_pilot_figures(rows, summary, names, place, formats, x=against, smooth=smooth):
        print(said)
    for path in save_pilot_tables(rows, summary, place, tables):
        print(f"written: {path}")
    _print_unfinished(rows.missing + len(rows.failed), len(rows.trainings), "trainings")


def _print_unfinished(unfinished: int, finished: int, noun: str) -> None:
    if unfinished:
        total = unfinished + finished
        print(f"{unfinished} of {total} {noun} are not finished and not drawn")
