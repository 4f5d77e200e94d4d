"""Tables for the terminal, those of a comparison first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from types import MappingProxyType

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.reports.comparison_tables import aggregate_table, summary_tables
from spangym.experiments.reports.tables import Table
from spangym.utils.text import slug

_HEAD = 14
"""Characters of a line of a column's name."""

_LABEL = 12
"""Characters of a label that always stand in one line."""


def rich_comparison_tables(results: Results, statistics: ComparisonStats) -> list[RichTable]:
    """A table for each environment and, of several, one over all of them.

    Reference policies are dim. An agent of which trials failed says so.

    Args:
        results: What trials left behind.
        statistics: What that says.
    """
    tables = [
        to_rich_table(table, _failures(results, table.title))
        for table in summary_tables(results, statistics)
    ]
    if len(results.environments) > 1 and len(statistics.aggregates):
        tables.append(to_rich_table(aggregate_table(results, statistics)))
    return tables


def to_rich_table(table: Table, failures: Mapping[str, int] = MappingProxyType({})) -> RichTable:
    """A table for the terminal; what only stands there to be compared with is dim.

    Args:
        table: What it holds.
        failures: How often what has a label failed; it gets a line of its own if it has none.
    """
    rendered = RichTable(
        title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    # In a narrow terminal a long label takes two lines; nothing is cut off.
    longest = max((len(row.cells[0].text) for row in table.rows), default=0)
    rendered.add_column(table.columns[0], overflow="fold", min_width=min(longest, _LABEL))
    for name in table.columns[1:]:
        head = "\n".join(textwrap.wrap(name, _HEAD))
        rendered.add_column(head, justify="right", no_wrap=True)
    failures = dict(failures)
    for row in table.rows:
        name, *others = (cell.text for cell in row.cells)
        failed = failures.pop(row.label, 0)
        said = f"{name} ({failed} failed)" if failed else name
        rendered.add_row(*map(escape, (said, *others)), style="dim" if row.is_baseline else None)
    for agent in failures:
        rendered.add_row(escape(agent), "failed", style="red")
    return rendered


def _failures(results: Results, environment: str) -> dict[str, int]:
    """How many trials of each agent failed in an environment, if any did."""
    counts = {}
    for agent in results.agents:
        begin = f"{slug(environment)}/{slug(agent)}/"
        counts[agent] = sum(name.startswith(begin) for name, _ in results.failed)
    return {agent: count for agent, count in counts.items() if count}
