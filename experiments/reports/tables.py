"""Tables made of cells, and as Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from spangym.utils.text import DASH, MINUS, collapse_whitespace


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is read.
        value: What is sorted by.
        note: What stands behind the text, less important.
        best: Whether none that counts is better.
    """

    text: str
    value: float | str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        cells: One a column.
        label: Of what it is about.
        is_baseline: Whether that only stands there to be compared with.
    """

    cells: tuple[Cell, ...]
    label: str
    is_baseline: bool


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it is about.
        columns: Their names.
        rows: Its rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def table_row(label: str, *cells: Cell, is_baseline: bool = False) -> TableRow:
    """A row that begins with the label of what it is about."""
    return TableRow((Cell(collapse_whitespace(label), label), *cells), label, is_baseline)


def mean_ci_cell(
    value: float,
    low: float,
    high: float,
    decimals: int,
    *,
    sign: bool = False,
    note: str = "",
    best: bool = False,
) -> Cell:
    """A number with half the width of its interval, which is as far to both sides."""
    half = (high - low) / 2
    text = format_number(value, decimals, sign)
    if not math.isnan(half):
        text += f" ± {half:,.{decimals}f}"
    return Cell(text, value, note, best)


def number_cell(value: float, decimals: int) -> Cell:
    """A number with so many decimals."""
    return Cell(format_number(value, decimals), value)


def format_number(value: float, decimals: int, sign: bool = False) -> str:
    """A number with so many decimals; a dash for what is not known.

    Example:
        >>> format_number(-0.004, 2), format_number(0.5, 2, sign=True)
        ('0.00', '+0.50')
        >>> format_number(math.nan, 2) == DASH
        True
    """
    if math.isnan(value):
        return DASH
    # No minus before a zero.
    return f"{round(value, decimals) + 0.0:{'+' if sign else ''},.{decimals}f}".replace("-", MINUS)


def decimals_for(values: Iterable[float]) -> int:
    """With how many places numbers are written that stand together."""
    largest = max((abs(value) for value in values if not math.isnan(value)), default=0.0)
    return 3 if largest < 100 else 1


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables under headings, what is best in bold."""

    def shown(cell: Cell) -> str:
        text = cell.text.translate(_MARKDOWN)
        return f"**{text}**" if cell.best else text

    parts = []
    for table in tables:
        marks = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [
            [name.translate(_MARKDOWN) for name in table.columns],
            marks,
            *_texts(table, shown),
        ]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {collapse_whitespace(table.title).translate(_MARKDOWN)}\n\n{body}\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """Tables of one form, at least one, as a ``tabular`` for booktabs, what is best in bold."""

    def shown(cell: Cell) -> str:
        text = cell.text.translate(_LATEX)
        return rf"\textbf{{{text}}}" if cell.best else text

    columns = tables[0].columns
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(name.translate(_LATEX) for name in columns) + r" \\")
    for table in tables:
        lines.append(r"\midrule")
        if len(tables) > 1:
            title = collapse_whitespace(table.title).translate(_LATEX)
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        lines += [" & ".join(texts) + r" \\" for texts in _texts(table, shown)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _texts(table: Table, shown: Callable[[Cell], str]) -> list[list[str]]:
    return [[shown(cell) for cell in row.cells] for row in table.rows]


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
