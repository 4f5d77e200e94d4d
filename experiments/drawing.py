"""Figures and tables of results as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..agents.files import written_whole
from ..attention.hints import did_you_mean
from .errors import UserError
from .figures import FIGURES, NothingToDraw, Results
from .figures.files import save_figure
from .result_tables import summary_tables, to_csv, to_latex, to_markdown

REWARD_CURVES = "reward_curves"
"""Name of the files of the reward curves, without their endings."""


def find_figures(names: Sequence[str]) -> list[str]:
    """Names of figures, each once; ``all`` stands for all.

    Raises:
        UserError: There is no such figure.
    """
    for name in names:
        if name not in (*FIGURES, "all"):
            hint = did_you_mean(name, [*FIGURES, "all"])
            raise UserError(f"there is no figure {name!r}{hint}")
    return [*FIGURES] if "all" in names else [*dict.fromkeys(names)]


def draw_figures(
    results: Results, names: Sequence[str], folder: Path, formats: Sequence[str]
) -> list[str]:
    """Draw figures to files.

    Args:
        results: What they are drawn from.
        names: Of `spangym.experiments.figures.FIGURES`.
        folder: Where the files go; it must be there.
        formats: Endings, of ``png``, ``svg`` and ``pdf``.

    Returns:
        A line for each file that was written, and for each figure that was not.

    Raises:
        UserError: None of them has anything to draw.
    """
    drawn, said = False, []
    for name in names:
        try:
            figure = FIGURES[name].draw(results)
        except NothingToDraw as reason:
            said.append(f"{name}: not drawn: {reason}")
            continue
        stem = f"{REWARD_CURVES}{'' if results.x == 'steps' else f'_{results.x}'}"
        paths = save_figure(figure, folder / (stem if name == "reward" else name), formats)
        said += [f"drawn: {path}" for path in paths]
        drawn = True
    if not drawn:
        raise UserError("; ".join(said))
    return said


def write_tables(results: Results, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write the table of a comparison to files.

    Args:
        results: What is in it.
        folder: Where the files go; it must be there.
        formats: Of ``csv``, ``markdown`` and ``latex``.

    Yields:
        What was written.
    """
    tables = summary_tables(results.rows, results.statistics)
    for name in formats:
        if name == "csv":
            ending, text = "csv", to_csv(results.statistics)
        elif name == "markdown":
            ending, text = "md", to_markdown(tables)
        else:
            ending, text = "tex", to_latex(tables)
        path = folder / f"table.{ending}"
        with written_whole(path) as aside:
            aside.write_text(text, "utf-8")
        yield path
