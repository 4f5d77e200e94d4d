"""The tables of a comparison, and its summaries as CSV."""

from __future__ import annotations

import math

from spangym.experiments.analysis.comparison_stats import Statistics
from spangym.experiments.analysis.results import Rows
from spangym.experiments.plots.interval_plots import STATISTICS
from spangym.experiments.plots.panels import records
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.style import DASH
from spangym.experiments.reports.tables import (
    Cell,
    Line,
    Table,
    estimate,
    make_line,
    number,
    places_for,
)

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


def summary_tables(rows: Rows, statistics: Statistics) -> list[Table]:
    """A table for each environment: how each agent fared in evaluation, the best first."""
    tables = []
    for environment in rows.environments:
        here = [row for row in records(statistics.summaries) if row["environment"] == environment]
        places = places_for(row["return"] for row in here)
        # The oracle knows what is to come.
        best = max((row["return"] for row in here if row["agent"] != "oracle"), default=None)
        lines = [
            _line(
                rows,
                row["agent"],
                estimate(
                    row["return"], row["low"], row["high"], places, best=row["return"] == best
                ),
                number(row["score"], 2),
                number(row["regret"], 3),
                number(row["mean_span"], 0),
                number(row["visited_keys"], 0),
                number(row["seconds"], 1),
                number(row["seeds"], 0),
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
        cell = estimate(row["estimate"], row["low"], row["high"], 2)
        by_agent.setdefault(row["agent"], {})[row["statistic"]] = cell
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
    places = places_for(row["difference"] for row in here)
    found = {
        (row["agent"], row["reference"]): estimate(
            row["difference"], row["low"], row["high"], places, sign=True, note=row["verdict"]
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
    places = places_for(row["area"] for row in here)
    lines = [
        _line(
            rows,
            row["agent"],
            number(row["steps"], 0),
            number(row["area"], places),
            number(row["efficiency"], 0),
        )
        for row in here
        if row["agent"] in rows.learners
    ]
    columns = ("agent", "steps", "mean return in training", "steps to 95 % of its gain")
    return Table("Learning", columns, tuple(lines))


def to_csv(statistics: Statistics) -> str:
    """The summaries with all their columns, as numbers."""
    return statistics.summaries.to_csv(index=False, lineterminator="\n")


def _line(rows: Rows, agent: str, *cells: Cell) -> Line:
    return make_line(agent, *cells, reference=agent not in rows.learners)
