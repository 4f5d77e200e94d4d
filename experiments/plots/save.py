"""Figures and tables of results as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from spangym.experiments.plots.figure_files import save_figure
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.spec import PlotSpec, S
from spangym.experiments.reports.comparison_tables import summary_tables, to_csv
from spangym.experiments.reports.tables import Table, to_latex, to_markdown
from spangym.utils.atomic_io import atomic_write
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean


def parse_figure_names(names: Sequence[str], specs: Mapping[str, PlotSpec[S]]) -> list[str]:
    """Names of figures, each once; ``all`` stands for all.

    Args:
        names: What was asked for.
        specs: The figures there are, by name.

    Raises:
        UserError: There is no such figure.
    """
    for name in names:
        if name not in (*specs, "all"):
            hint = did_you_mean(name, [*specs, "all"])
            raise UserError(f"there is no figure {name!r}{hint}")
    return [*specs] if "all" in names else [*dict.fromkeys(names)]


def save_comparison_figures(
    data: PlotData, names: Sequence[str], folder: Path, formats: Sequence[str]
) -> list[str]:
    """Draw figures of a comparison to files, as `save_figures` does."""
    return save_figures(PLOTS, data, names, folder, formats)


def save_figures(
    specs: Mapping[str, PlotSpec[S]],
    subject: S,
    names: Sequence[str],
    folder: Path,
    formats: Sequence[str],
) -> list[str]:
    """Draw figures to files.

    Args:
        specs: The figures there are, by name.
        subject: What they are drawn from.
        names: Of ``kinds``.
        folder: Where the files go; it must be there.
        formats: Endings, of ``png``, ``svg`` and ``pdf``.

    Returns:
        A line for each file that was written, and for each figure that was not.

    Raises:
        UserError: None of them has anything to draw.
    """
    drawn, messages = False, []
    for name in names:
        try:
            figure = specs[name].draw(subject)
        except NoData as reason:
            messages.append(f"{name}: not drawn: {reason}")
            continue
        paths = save_figure(figure, folder / subject.filename(name), formats)
        messages += [f"drawn: {path}" for path in paths]
        drawn = True
    if not drawn:
        raise UserError("; ".join(messages))
    return messages


def save_tables(data: PlotData, folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Write the table of a comparison to files, as `save_table_files` does."""
    tables = summary_tables(data.results, data.statistics)
    return save_table_files("table", tables, lambda: to_csv(data.statistics), folder, formats)


def save_table_files(
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
        with atomic_write(path) as tmp:
            tmp.write_text(text, "utf-8")
        yield path
