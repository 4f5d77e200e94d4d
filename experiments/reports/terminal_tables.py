"""Tables for the terminal, those of a comparison first."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from types import MappingProxyType

from rich import box
from rich import table as rich_table
from rich.markup import escape

from spangym.experiments.analysis.comparison_stats import Statistics
from spangym.experiments.analysis.results import Rows
from spangym.experiments.reports.comparison_tables import aggregate_table, summary_tables
from spangym.experiments.reports.tables import Table
from spangym.experiments.studies.study import slug

_HEAD = 14
"""Characters of a line of a column's name."""

_LABEL = 12
"""Characters of a label that always stand in one line."""


def make_tables(rows: Rows, statistics: Statistics) -> list[rich_table.Table]:
    """A table for each environment and, of several, one over all of them.

    Reference policies are dim. An agent of which trials failed says so.

    Args:
        rows: What trials left behind.
        statistics: What that says.
    """
    tables = [
        render_table(table, _failures(rows, table.title))
        for table in summary_tables(rows, statistics)
    ]
    if len(rows.environments) > 1 and len(statistics.aggregates):
        tables.append(render_table(aggregate_table(rows, statistics)))
    return tables


def render_table(
    table: Table, failures: Mapping[str, int] = MappingProxyType({})
) -> rich_table.Table:
    """A table for the terminal; what only stands there to be compared with is dim.

    Args:
        table: What it holds.
        failures: How often what has a label failed; it gets a line of its own if it has none.
    """
    rendered = rich_table.Table(
        title=escape(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    # In a narrow terminal a long label takes two lines; nothing is cut off.
    longest = max((len(line.cells[0].text) for line in table.lines), default=0)
    rendered.add_column(table.columns[0], overflow="fold", min_width=min(longest, _LABEL))
    for name in table.columns[1:]:
        head = "\n".join(textwrap.wrap(name, _HEAD))
        rendered.add_column(head, justify="right", no_wrap=True)
    failures = dict(failures)
    for line in table.lines:
        name, *others = (cell.text for cell in line.cells)
        failed = failures.pop(line.label, 0)
        said = f"{name} ({failed} failed)" if failed else name
        rendered.add_row(*map(escape, (said, *others)), style="dim" if line.reference else None)
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
