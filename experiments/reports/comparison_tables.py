"""The tables of a comparison, and its summaries as CSV."""

from __future__ import annotations

import math

from spangym.experiments.analysis.comparison_stats import ComparisonStats
from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.interval_plots import STATISTICS
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.reports.tables import (
    Cell,
    Table,
    TableRow,
    decimals_for,
    mean_ci_cell,
    number_cell,
    table_row,
)
from spangym.utils.text import DASH

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


def summary_tables(results: Results, statistics: ComparisonStats) -> list[Table]:
    """A table for each environment: how each agent fared in evaluation, the best first."""
    tables = []
    for environment in results.environments:
        here = [
            row for row in to_records(statistics.summaries) if row["environment"] == environment
        ]
        decimals = decimals_for(row["return"] for row in here)
        # The oracle knows what is to come.
        best = max((row["return"] for row in here if row["agent"] != "oracle"), default=None)
        rows = [
            _table_row(
                results,
                row["agent"],
                mean_ci_cell(
                    row["return"], row["low"], row["high"], decimals, best=row["return"] == best
                ),
                number_cell(row["score"], 2),
                number_cell(row["regret"], 3),
                number_cell(row["mean_span"], 0),
                number_cell(row["qk_pairs"], 0),
                number_cell(row["seconds"], 1),
                number_cell(row["seeds"], 0),
            )
            for row in here
        ]
        if rows:
            tables.append(Table(environment, SUMMARY, tuple(rows)))
    return tables


def aggregate_table(results: Results, statistics: ComparisonStats) -> Table:
    """Statistics of the scores over all environments, the best first."""
    by_agent: dict[str, dict[str, Cell]] = {}
    for row in to_records(statistics.aggregates):
        cell = mean_ci_cell(row["estimate"], row["low"], row["high"], 2)
        by_agent.setdefault(row["agent"], {})[row["statistic"]] = cell
    rows = [
        _table_row(results, agent, *(cells[statistic] for statistic in STATISTICS))
        for agent, cells in sorted(
            by_agent.items(), key=lambda item: item[1]["iqm"].value, reverse=True
        )
    ]
    return Table("Scores over all environments", ("agent", *STATISTICS), tuple(rows))


def difference_table(results: Results, statistics: ComparisonStats, environment: str) -> Table:
    """Paired differences of the learners' returns from those of non-learning baselines."""
    here = [row for row in to_records(statistics.differences) if row["environment"] == environment]
    best = PlotData(results, statistics).best_fixed(environment)
    against = [each for each in (best, *_AGAINST) if any(row["baseline"] == each for row in here)]
    decimals = decimals_for(row["difference"] for row in here)
    found = {
        (row["agent"], row["baseline"]): mean_ci_cell(
            row["difference"], row["low"], row["high"], decimals, sign=True, note=row["outcome"]
        )
        for row in here
    }
    missing = Cell(DASH, math.nan)
    rows = [
        _table_row(results, agent, *(found.get((agent, baseline), missing) for baseline in against))
        for agent in results.learners
        if any(row["agent"] == agent for row in here)
    ]
    columns = ("agent", *(f"minus {each}" for each in against))
    return Table("Differences in return", columns, tuple(rows))


def sample_efficiency_table(
    results: Results, statistics: ComparisonStats, environment: str
) -> Table:
    """How fast agents learned."""
    here = [row for row in to_records(statistics.summaries) if row["environment"] == environment]
    decimals = decimals_for(row["area"] for row in here)
    rows = [
        _table_row(
            results,
            row["agent"],
            number_cell(row["steps"], 0),
            number_cell(row["area"], decimals),
            number_cell(row["efficiency"], 0),
        )
        for row in here
        if row["agent"] in results.learners
    ]
    columns = ("agent", "steps", "mean return in training", "steps to 95 % of its gain")
    return Table("Learning", columns, tuple(rows))


def to_csv(statistics: ComparisonStats) -> str:
    """The summaries with all their columns, as numbers."""
    return statistics.summaries.to_csv(index=False, lineterminator="\n")


def _table_row(results: Results, agent: str, *cells: Cell) -> TableRow:
    return table_row(agent, *cells, is_baseline=agent not in results.learners)
