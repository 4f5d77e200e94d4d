"""Tables of formatted cells, and their Markdown, LaTeX and terminal output."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from spangym.utils.text import DASH, MINUS, collapse_whitespace, printable

_HEADER_WIDTH = 14
_MIN_LABEL_WIDTH = 12


@dataclass(frozen=True)
class Cell:
    """A formatted cell with its sort key, a secondary text, and whether it is its column's best."""

    text: str
    value: float | str
    note: str = ""
    best: bool = False


MISSING = Cell(DASH, math.nan)


@dataclass(frozen=True)
class TableRow:
    """A row: a cell for each column, the first with the (shortened) label."""

    cells: tuple[Cell, ...]
    label: str
    is_baseline: bool


@dataclass(frozen=True)
class Table:
    """A table: its title, the names of its columns, and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def table_row(label: str, *cells: Cell, is_baseline: bool = False) -> TableRow:
    """Make a row whose first cell is its label."""
    return TableRow((Cell(_one_line(label), label), *cells), label, is_baseline)


def _one_line(text: str) -> str:
    return printable(collapse_whitespace(text))


def mean_ci_cell(
    value: float, low: float, high: float, decimals: int, *, sign: bool = False, note: str = ""
) -> Cell:
    """Format a mean and half the width of its symmetric interval."""
    text, half = format_number(value, decimals, sign), (high - low) / 2
    if not math.isnan(half):
        text += f" ± {half:,.{decimals}f}"
    return Cell(text, value, note)


def number_cell(value: float, decimals: int) -> Cell:
    """Format a number."""
    return Cell(format_number(value, decimals), value)


def format_number(value: float, decimals: int, sign: bool = False) -> str:
    """Format a number with fixed decimals, NaN as a dash.

    Example:
        >>> format_number(-0.004, 2), format_number(0.5, 2, sign=True)
        ('0.00', '+0.50')
        >>> format_number(math.nan, 2) == DASH
        True
    """
    if math.isnan(value):
        return DASH
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, decimals) + 0.0:{'+' if sign else ''},.{decimals}f}".replace("-", MINUS)


def decimals_for(values: Iterable[float]) -> int:
    """Decimals of numbers in one column."""
    largest = max((abs(value) for value in values if not math.isnan(value)), default=0.0)
    return 3 if largest < 100 else 1


def to_markdown(tables: Sequence[Table]) -> str:
    """Markdown tables under headings, the best values in bold."""
    parts = []
    for table in tables:
        lines = [[name.translate(_MARKDOWN) for name in table.columns]]
        lines.append(["---", *["---:"] * (len(table.columns) - 1)])
        lines += [
            [_marked(cell, _MARKDOWN, "**", "**") for cell in row.cells] for row in table.rows
        ]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {_one_line(table.title).translate(_MARKDOWN)}\n\n{body}\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """One ``tabular`` for booktabs of tables with the same columns, the best values in bold."""
    columns = tables[0].columns
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(name.translate(_LATEX) for name in columns) + r" \\")
    for table in tables:
        lines.append(r"\midrule")
        if len(tables) > 1:
            title = _one_line(table.title).translate(_LATEX)
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        for row in table.rows:
            cells = [_marked(cell, _LATEX, r"\textbf{", "}") for cell in row.cells]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def to_rich_table(table: Table, failures: Mapping[str, int] = MappingProxyType({})) -> RichTable:
    """Make a table for the terminal; non-learning baselines are dim.

    ``failures`` counts failed jobs by label; labels without a row get one.
    """
    rendered = RichTable(
        title=escape(_one_line(table.title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    # In a narrow terminal long labels are folded; nothing is cut off.
    longest = max((len(row.cells[0].text) for row in table.rows), default=0)
    rendered.add_column(table.columns[0], overflow="fold", min_width=min(longest, _MIN_LABEL_WIDTH))
    for name in table.columns[1:]:
        header = "\n".join(textwrap.wrap(name, _HEADER_WIDTH))
        rendered.add_column(header, justify="right", no_wrap=True)
    for row in table.rows:
        label, *others = (cell.text for cell in row.cells)
        if row.label in failures:
            label += f" ({failures[row.label]} failed)"
        rendered.add_row(*map(escape, (label, *others)), style="dim" if row.is_baseline else None)
    for label in failures.keys() - {row.label for row in table.rows}:
        rendered.add_row(escape(_one_line(label)), "failed", style="red")
    return rendered


def _marked(cell: Cell, escapes: dict[int, str], start: str, end: str) -> str:
    text = cell.text.translate(escapes)
    return f"{start}{text}{end}" if cell.best else text


_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|$~"})
_LATEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        MINUS: "$-$",
        DASH: "--",
    }
)
