"""The tables of a comparison for the terminal."""

from __future__ import annotations

from rich import box
from rich import table as rich_table
from rich.markup import escape

from .result_tables import Table, aggregate_table, summary_tables
from .rows import Rows
from .statistics import Statistics
from .studies import slug


def make_tables(rows: Rows, statistics: Statistics) -> list[rich_table.Table]:
    """A table for each environment and, of several, one over all of them.

    Reference policies are dim. An agent of which trials failed says so.

    Args:
        rows: What trials left behind.
        statistics: What that says.
    """
    tables = [
        _render(table, _failures(rows, table.title)) for table in summary_tables(rows, statistics)
    ]
    if len(rows.environments) > 1 and len(statistics.aggregates):
        tables.append(_render(aggregate_table(rows, statistics), {}))
    return tables


def _render(table: Table, failures: dict[str, int]) -> rich_table.Table:
    rendered = rich_table.Table(
        title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    # In a narrow terminal a long label takes two lines; nothing is cut off.
    rendered.add_column(table.columns[0], overflow="fold")
    for name in table.columns[1:]:
        rendered.add_column(name, justify="right", no_wrap=True)
    for line in table.lines:
        name, *others = (cell.text for cell in line.cells)
        failed = failures.pop(line.agent, 0)
        said = f"{name} ({failed} failed)" if failed else name
        rendered.add_row(*map(escape, (said, *others)), style=None if line.learner else "dim")
    for agent in failures:
        rendered.add_row(escape(agent), "failed", style="red")
    return rendered


def _failures(rows: Rows, environment: str) -> dict[str, int]:
    """How many trials of each agent failed in an environment, if any did."""
    counts = {}
    for agent in rows.agents:
        begin = f"{slug(environment)}/{slug(agent)}/"
        counts[agent] = sum(name.startswith(begin) for name, _ in rows.failed)
    return {agent: count for agent, count in counts.items() if count}
