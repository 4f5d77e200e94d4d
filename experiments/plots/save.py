"""Figures and tables of results as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spangym.experiments.plots.figure_files import save_figure
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.spec import PlotSpec, S
from spangym.experiments.reports.result_tables import (
    by_action_tables,
    summary_table,
    wide_summary,
)
from spangym.experiments.reports.tables import to_latex, to_markdown
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
    """Write ``table`` and, for a pilot with spans, ``by_action`` to a file of each format.

    Args:
        data: Results and statistics.
        folder: An existing folder.
        formats: Some of ``csv``, ``markdown`` and ``latex``.

    Yields:
        Paths of the written files.
    """
    environments = data.results.environments
    tables = {"table": [summary_table(data, each) for each in environments]}
    csv = {"table": wide_summary(data.statistics.summary), "by_action": data.statistics.by_action}
    if by_action := by_action_tables(data):
        tables["by_action"] = by_action
    for name, each in tables.items():
        for format_name in formats:
            if format_name == "csv":
                suffix, text = "csv", csv[name].to_csv(index=False, lineterminator="\n")
            elif format_name == "markdown":
                suffix, text = "md", to_markdown(each)
            else:
                suffix, text = "tex", to_latex(each)
            path = folder / f"{name}.{suffix}"
            with atomic_write(path) as tmp:
                tmp.write_text(text, "utf-8")
            yield path
