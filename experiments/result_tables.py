"""The tables of a comparison, and the summary as CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .figures.intervals import STATISTICS
from .figures.panels import Results, records
from .figures.style import DASH, MINUS
from .rows import Rows
from .statistics import Statistics

SUMMARY = (
    "agent",
    "mean return",
    "score",
    "regret",
    "mean span",
    "visited keys",
    "seconds",
    "seeds",
)
_AGAINST = ("threshold", "random", "oracle")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is read.
        value: What is sorted by.
        note: What stands behind the text, less important.
        best: Whether no agent that could be used has a better one.
    """

    text: str
    value: float | str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        cells: One a column.
        agent: Label of the agent it is about.
        learner: Whether that learns.
    """

    cells: tuple[Cell, ...]
    agent: str
    learner: bool


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it is about.
        columns: Their names.
        lines: What it holds.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def summary_tables(rows: Rows, statistics: Statistics) -> list[Table]:
    """A table for each environment: how each agent fared in evaluation, the best first."""
    tables = []
    for environment in rows.environments:
        here = [row for row in records(statistics.summaries) if row["environment"] == environment]
        places = _places(row["return"] for row in here)
        # The oracle knows what is to come.
        usable = [row["return"] for row in here if row["agent"] != "oracle"]
        lines = [
            _line(
                rows,
                row["agent"],
                _estimate(row, "return", places, best=row["return"] == max(usable, default=None)),
                _number(row["score"], 2),
                _number(row["regret"], 3),
                _number(row["mean_span"], 0),
                _number(row["visited_keys"], 0),
                _number(row["seconds"], 1),
                _number(row["seeds"], 0),
            )
            for row in here
        ]
        if lines:
            tables.append(Table(environment, SUMMARY, tuple(lines)))
    return tables


def aggregate_table(rows: Rows, statistics: Statistics) -> Table:
    """Statistics of the scores over all environments, the best first."""
    by_agent: dict[str, dict[str, Cell]] = {}
    for row in records(statistics.aggregates):
        by_agent.setdefault(row["agent"], {})[row["statistic"]] = _estimate(row, "estimate", 2)
    lines = [
        _line(rows, agent, *(cells[statistic] for statistic in STATISTICS))
        for agent, cells in sorted(
            by_agent.items(), key=lambda item: item[1]["iqm"].value, reverse=True
        )
    ]
    return Table("Scores over all environments", ("agent", *STATISTICS), tuple(lines))


def difference_table(rows: Rows, statistics: Statistics, environment: str) -> Table:
    """Paired differences of the learners' returns from those of policies that learn nothing."""
    here = [row for row in records(statistics.differences) if row["environment"] == environment]
    best = Results(rows, statistics).best_fixed(environment)
    against = [each for each in (best, *_AGAINST) if any(row["reference"] == each for row in here)]
    places = _places(row["difference"] for row in here)
    found = {
        (row["agent"], row["reference"]): _estimate(
            row, "difference", places, sign=True, note=row["verdict"]
        )
        for row in here
    }
    missing = Cell(DASH, math.nan)
    lines = [
        _line(rows, agent, *(found.get((agent, reference), missing) for reference in against))
        for agent in rows.learners
        if any(row["agent"] == agent for row in here)
    ]
    columns = ("agent", *(f"minus {each}" for each in against))
    return Table("Differences in return", columns, tuple(lines))


def learning_table(rows: Rows, statistics: Statistics, environment: str) -> Table:
    """How fast agents learned."""
    here = [row for row in records(statistics.summaries) if row["environment"] == environment]
    places = _places(row["area"] for row in here)
    lines = [
        _line(
            rows,
            row["agent"],
            _number(row["steps"], 0),
            _number(row["area"], places),
            _number(row["efficiency"], 0),
        )
        for row in here
        if row["agent"] in rows.learners
    ]
    columns = ("agent", "steps", "mean return in training", "steps to 95 % of its gain")
    return Table("Learning", columns, tuple(lines))


def to_csv(statistics: Statistics) -> str:
    """The summaries with all their columns, as numbers."""
    return statistics.summaries.to_csv(index=False, lineterminator="\n")


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables under headings, what is best in bold."""

    def shown(cell: Cell) -> str:
        text = cell.text.translate(_MARKDOWN)
        return f"**{text}**" if cell.best else text

    parts = []
    for table in tables:
        marks = ["---", *["---:"] * (len(table.columns) - 1)]
        lines = [list(table.columns), marks, *_texts(table, shown)]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {_one_line(table.title).translate(_MARKDOWN)}\n\n{body}\n")
    return "\n".join(parts)


def to_latex(tables: Sequence[Table]) -> str:
    """Tables of one form as a ``tabular`` for booktabs, what is best in bold."""

    def shown(cell: Cell) -> str:
        text = cell.text.translate(_LATEX)
        return rf"\textbf{{{text}}}" if cell.best else text

    columns = tables[0].columns if tables else SUMMARY
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule"]
    lines.append(" & ".join(name.translate(_LATEX) for name in columns) + r" \\")
    for table in tables:
        lines.append(r"\midrule")
        if len(tables) > 1:
            title = _one_line(table.title).translate(_LATEX)
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        lines += [" & ".join(texts) + r" \\" for texts in _texts(table, shown)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _texts(table: Table, shown: Callable[[Cell], str]) -> list[list[str]]:
    return [[shown(cell) for cell in line.cells] for line in table.lines]


def _line(rows: Rows, agent: str, *cells: Cell) -> Line:
    return Line((Cell(_one_line(agent), agent), *cells), agent, agent in rows.learners)


def _estimate(
    row: dict[str, float],
    column: str,
    places: int,
    sign: bool = False,
    note: str = "",
    best: bool = False,
) -> Cell:
    """A number with half the width of its interval, which is as far to both sides."""
    value, half = row[column], (row["high"] - row["low"]) / 2
    text = written(value, places, sign)
    if not math.isnan(half):
        text += f" ± {half:,.{places}f}"
    return Cell(text, value, note, best)


def _number(value: float, places: int) -> Cell:
    return Cell(written(value, places), value)


def written(value: float, places: int, sign: bool = False) -> str:
    """A number with so many places; a dash for what is not known.

    Example:
        >>> written(-0.004, 2), written(0.5, 2, sign=True), written(math.nan, 2) == DASH
        ('0.00', '+0.50', True)
    """
    if math.isnan(value):
        return DASH
    # No minus before a zero.
    return f"{round(value, places) + 0.0:{'+' if sign else ''},.{places}f}".replace("-", MINUS)


def _places(values: Iterable[float]) -> int:
    largest = max((abs(value) for value in values if not math.isnan(value)), default=0.0)
    return 3 if largest < 100 else 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
