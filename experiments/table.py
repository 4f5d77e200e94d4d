"""The comparison as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table

from .statistics import AgentSummary

COLUMNS = ("agent", "mean return", "score", "mean span", "visited keys", "seconds")


def cells(summary: AgentSummary) -> tuple[str, ...]:
    """An agent's row as text, by `COLUMNS`."""
    interval = "" if summary.interval is None else f" ± {summary.interval:.3f}"
    return (
        summary.label,
        _fixed_point(summary.mean_return, 3) + interval,
        "-" if summary.score is None else _fixed_point(summary.score, 2),
        f"{summary.mean_span:.0f}",
        f"{summary.visited_keys:,.0f}",
        f"{summary.seconds:.1f}",
    )


def make_table(summaries: Iterable[AgentSummary], title: str) -> Table:
    """The table for the terminal; reference policies are dim.

    Args:
        summaries: One an agent, in the order of the rows.
        title: What stands above it.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    # In a narrow terminal a long label takes two lines; nothing is cut off.
    table.add_column(COLUMNS[0], overflow="fold")
    for name in COLUMNS[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(*map(escape, cells(summary)), style="dim" if summary.is_reference else None)
    return table


def _fixed_point(value: float, places: int) -> str:
    """With so many places, and no minus before a zero."""
    return f"{round(value, places) + 0.0:.{places}f}"
