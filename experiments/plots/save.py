"""Figures and tables of results as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from spangym.experiments.plots.figure_files import save_figure
from spangym.experiments.plots.panels import NothingToDraw
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.plot_registry import FIGURES
from spangym.experiments.plots.spec import FigureKind, S
from spangym.experiments.reports.comparison_tables import summary_tables, to_csv
from spangym.experiments.reports.tables import Table, to_latex, to_markdown
from spangym.utils.atomic_io import written_whole
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean


def find_figures(names: Sequence[str], kinds: Mapping[str, FigureKind[S]]) -> list[str]:
    """Names of figures, each once; ``all`` stands for all.

    Args:
        names: What was asked for.
        kinds: The figures there are, by name.

    Raises:
        UserError: There is no such figure.
    """
    for name in names:
        if name not in (*kinds, "all"):
            hint = did_you_mean(name, [*kinds, "all"])
            raise UserError(f"there is no figure {name!r}{hint}")
    return [*kinds] if "all" in names else [*dict.fromkeys(names)]


def draw_figures(
    results: Results, names: Sequence[str], folder: Path, formats: Sequence[str]
) -> list[str]:
    """Draw figures of a comparison to files, as `draw_kinds` does."""
    return draw_kinds(FIGURES, results, names, folder, formats)


def draw_kinds(
    kinds: Mapping[str, FigureKind[S]],
    subject: S,
    names: Sequence[str],
    folder: Path,
    formats: Sequence[str],
) -> list[str]:
    """Draw figures to files.

    Args:
        kinds: The figures there are, by name.
        subject: What they are drawn from.
        names: Of ``kinds``.
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
            figure = kinds[name].draw(subject)
        except NothingToDraw as reason:
            said.append(f"{name}: not drawn: {reason}")
            continue
        paths = save_figure(figure, folder / subject.stem(name), formats)
        said += [f"drawn: {path}" for path in paths]
        drawn = True
    if not drawn:
        raise UserError("; ".join(said))
    return said


def write_tables(results: Results, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write the table of a comparison to files, as `write_texts` does."""
    tables = summary_tables(results.rows, results.statistics)
    return write_texts("table", tables, lambda: to_csv(results.statistics), folder, formats)


def write_texts(
    name: str,
    tables: Sequence[Table],
    csv: Callable[[], str],
    folder: Path,
    formats: Sequence[str],
) -> Iterator[Path]:
    """Write tables to a file of each format.

    Args:
        name: Of the files, without their endings.
        tables: Of one form, at least one.
        csv: Makes the numbers that are in them.
        folder: Where the files go; it must be there.
        formats: Of ``csv``, ``markdown`` and ``latex``.

    Yields:
        What was written.
    """
    for each in formats:
        if each == "csv":
            ending, text = "csv", csv()
        elif each == "markdown":
            ending, text = "md", to_markdown(tables)
        else:
            ending, text = "tex", to_latex(tables)
        path = folder / f"{name}.{ending}"
        with written_whole(path) as aside:
            aside.write_text(text, "utf-8")
        yield path
