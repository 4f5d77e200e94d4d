"""Commands about runs that are there: ``spangym curves``, ``validate`` and ``leaderboard``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from spangym.experiments.benchmarks.measure import check_writable_file
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.trials.run_dir import RunDir
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError


class XAxis(StrEnum):
    """What trainings are drawn against."""

    STEPS = "steps"
    WALL = "wall"
    VISITED_KEYS = "qk_pairs"


class Format(StrEnum):
    """Formats of figures."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


class TableFormat(StrEnum):
    """Formats of the table."""

    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


Folders = Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")]


def curves(
    folders: Folders,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            help="A figure to draw (may be repeated), or all. Of comparisons: reward, profiles, "
            "probability_of_improvement, aggregates, radar, span_heatmap, pareto, differences; else "
            "reward. Of a pilot: error, loss, runtime, keys, spans, by_span, laws, attention; else error and loss."
        ),
    ] = None,
    x: Annotated[
        XAxis, typer.Option("--x", help="What trainings are drawn against.")
    ] = XAxis.STEPS,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a training that a point is averaged over."),
    ] = 0.1,
    format: Annotated[  # noqa: A002  (the option's name)
        list[Format] | None, typer.Option(help="May be repeated; else png and svg.")
    ] = None,
    table: Annotated[
        list[TableFormat] | None, typer.Option(help="Write the table too (may be repeated).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; else that of the run.")
    ] = None,
) -> None:
    """Redraw figures from the stored rows of runs, several together; trains nothing."""
    from spangym.experiments.pilot.pilot_folder import is_pilot

    formats = [each.value for each in format or (Format.PNG, Format.SVG)]
    tables = [each.value for each in table or ()]
    if any(is_pilot(folder) for folder in folders):
        _draw_pilot(folders, figure, x, smooth, formats, tables, out)
    else:
        _draw_comparison(folders, figure, x, smooth, formats, tables, out)


def _draw_comparison(
    folders: Sequence[Path],
    figures: Sequence[str] | None,
    x: XAxis,
    smooth: float,
    formats: Sequence[str],
    tables: Sequence[str],
    out: Path | None,
) -> None:
    from spangym.experiments.analysis.comparison_stats import compute_statistics
    from spangym.experiments.analysis.load_results import load_results
    from spangym.experiments.plots.plot_data import PlotData
    from spangym.experiments.plots.plot_registry import PLOTS
    from spangym.experiments.plots.save import (
        parse_figure_names,
        save_comparison_figures,
        save_tables,
    )

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
            f"no trial is finished in {str(folders[0])!r}: go on with {runs[0].resume_command}"
        )
    data = PlotData(results, compute_statistics(results, np.random.default_rng(0)), x.value, smooth)
    place.mkdir(parents=True, exist_ok=True)
    for said in save_comparison_figures(data, names, place, formats):
        print(said)
    for path in save_tables(data, place, tables):
        print(f"written: {path}")
    _say_unfinished(results.missing + len(results.failed), len(results.trials), "trials")


def _draw_pilot(
    folders: Sequence[Path],
    figures: Sequence[str] | None,
    x: XAxis,
    smooth: float,
    formats: Sequence[str],
    tables: Sequence[str],
    out: Path | None,
) -> None:
    from spangym.experiments.pilot.conclusion import summarize
    from spangym.experiments.pilot.figures.kinds import PILOT_PLOTS
    from spangym.experiments.pilot.pilot_drawing import save_pilot_figures, save_pilot_tables
    from spangym.experiments.pilot.pilot_folder import PilotFolder, is_pilot
    from spangym.experiments.pilot.pilot_gathering import load_pilot_results
    from spangym.experiments.plots.save import parse_figure_names

    if len(folders) > 1:
        pilot = next(folder for folder in folders if is_pilot(folder))
        raise UserError(f"{str(pilot)!r} is a pilot: pilots are drawn one at a time")
    if x is XAxis.VISITED_KEYS:
        raise UserError(
            "--x qk_pairs is for comparisons: a pilot is drawn against steps or wall; for its "
            "visited keys draw --figure keys"
        )
    names = parse_figure_names(figures or ["error", "loss"], PILOT_PLOTS)
    folder = PilotFolder.open(folders[0])
    if out is None:
        folder.check_writable()
    rows = load_pilot_results(folder)
    if not len(rows.trainings):
        raise UserError(
            f"no training is finished in {str(folders[0])!r}: go on with {folder.resume_command}"
        )
    summary = summarize(folder.study(), rows)
    place = out or folder.path
    place.mkdir(parents=True, exist_ok=True)
    against = "wall" if x is XAxis.WALL else "steps"
    for said in save_pilot_figures(rows, summary, names, place, formats, x=against, smooth=smooth):
        print(said)
    for path in save_pilot_tables(rows, summary, place, tables):
        print(f"written: {path}")
    _say_unfinished(rows.missing + len(rows.failed), len(rows.trainings), "trainings")


def _say_unfinished(unfinished: int, finished: int, what: str) -> None:
    if unfinished:
        total = unfinished + finished
        print(f"{unfinished} of {total} {what} are not finished and not drawn")


def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only episodes that differ.")
    ] = False,
) -> None:
    """Play a run's stored evaluation episodes again and compare what comes of them."""
    from spangym.experiments.trials.replay import validate as replay

    run = RunDir.open(folder)
    torch.set_num_threads(1)
    failed = rounded = total = 0
    for row in replay(run):
        if row.difference or not quiet:
            print(row)
        total += 1
        failed += not row.reproduced
        rounded += row.reproduced and bool(row.difference)
    if not total:
        raise UserError(f"no trial is finished in {str(folder)!r}: there is nothing to replay")
    exact = total - failed - rounded
    exactly = "all" if exact == total else f"{exact} of them"
    print(f"{total - failed} of {total} episodes are reproduced, {exactly} to the bit")
    if failed:
        then, now = run.manifest(), make_manifest(run.study(), sys.argv, 1)
        for name, what in (("content_sha256", "content"), ("weights_sha256", "weights")):
            if then.get(name) != now[name]:
                print(f"the run was made with other {what}, see its manifest.json")
        raise typer.Exit(1)


def leaderboard(
    folders: Folders,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the ranks to this file too.")
    ] = None,
) -> None:
    """Rank the agents of runs by their scores, once every row has been played again."""
    from spangym.experiments.analysis.rank_agents import leaderboard_table, make_leaderboard

    if json is not None:
        check_writable_file("--json", json)
    runs = [RunDir.open(folder) for folder in folders]
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bars:
        bar = bars.add_task("playing episodes again", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        board = make_leaderboard(runs, progress)
    console.print(leaderboard_table(board))
    console.print(
        f"score: 0 is random, 1 the oracle; interquartile mean over environments and training "
        f"seeds; {board.episodes:,} evaluation episodes were played again",
        style="dim",
        highlight=False,
    )
    for said in board.rejected:
        print(f"not reproduced: {said}", file=sys.stderr)
    if json is not None:
        with atomic_write(json) as tmp:
            tmp.write_text(dumps(board.as_json(), indent=2) + "\n", "utf-8")
        print(f"written: {json}")
    if board.rejected:
        raise typer.Exit(1)
