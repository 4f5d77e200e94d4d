"""Tables, headlines and footnotes of a comparison or a pilot."""

from __future__ import annotations

import io
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from spangym.experiments.analysis.comparison_stats import BEST_FIXED, STATISTICS
from spangym.experiments.analysis.hypervolume import HYPERVOLUME, tradeoff_metric_infos
from spangym.experiments.analysis.results import ALL_SPLITS, EVALUATION, MetricInfo
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import truncate_middle
from spangym.experiments.reports.tables import (
    MISSING,
    Cell,
    Table,
    decimals_for,
    format_number,
    mean_ci_cell,
    number_cell,
    table_row,
    to_latex,
    to_markdown,
    to_rich_table,
)
from spangym.utils.text import slug

GAP = "generalization_gap"
_EVALUATION_METRICS = ("score", "regret", GAP, "mean_span", "qk_pairs", "seconds")
_COST_METRICS = ("parameters", "milliseconds", "time_ratio", "qk_share", "span")
_NAMED_BASELINES = ("threshold", "random", "oracle")
_FEW_SEEDS = 5
_FEW_ENVIRONMENTS = 3
"""Environments up to which every outcome has a headline."""

FOOTNOTES = (
    "Intervals are 95 % confidence intervals over training seeds: Student's t for one environment, "
    "Student's t with a stratified bootstrap standard error over several. A single seed, a "
    "deterministic baseline and a proportion of 0 or 1 have no interval.",
    "Differences are paired by training seed and evaluation episode, and are not corrected for "
    "multiple comparisons.",
)
COMPARISON_FOOTNOTES = (
    *FOOTNOTES,
    "Scores are 0 for the mean return of random and 1 for that of the oracle; their intervals take "
    "both as known.",
    "The mean span is the one that actions ask for, in tokens, which may exceed the chunk.",
)
GAP_FOOTNOTE = (
    "The generalization gap is the mean return on the levels of the training minus that of the "
    "evaluation. A dash means that the environment has no levels. The gap of a fixed span, which "
    "is not trained, is due to the content alone."
)
PILOT_FOOTNOTES = (
    *FOOTNOTES,
    "Update times were measured while other trainings ran on the same machine; `spangym bench "
    "pilot` measures ratios without them.",
    "The original layer computes its span from the chunk that it predicts, so that its bits per "
    "byte include information about the future.",
)


Column = Mapping[str, Cell]
"""Cells by group."""


def summary_table(data: PlotData, environment: str) -> Table:
    """Quality and cost of each group in an environment.

    Groups of a comparison are sorted by return, variants of a pilot are in the study's order. The
    best value is marked, except for the oracle, which looks ahead.
    """
    results, info = data.results, data.metric
    jobs = results.finished
    seeds = Counter(jobs.loc[jobs["environment"] == environment, "group"])
    groups = [each for each in results.groups if each in seeds]
    if data.is_pilot:
        metrics, split, last = _COST_METRICS, ALL_SPLITS, results.splits[-1:]
    else:
        metrics, split, last = _shown_metrics(data), EVALUATION, ()
        returns = data.means(environment)
        groups.sort(key=lambda group: returns[group], reverse=True)
    columns: dict[str, Column] = {}
    for each in results.splits:
        cells = _metric_column(data, environment, groups, results.primary, each, interval=True)
        columns[_column_name(data, info.label, each, info.unit)] = _mark_best(cells, info)
    for each in last:
        if error := results.metrics.get("character_error"):
            name = _column_name(data, error.label, each, error.unit)
            columns[name] = _metric_column(data, environment, groups, "character_error", each)
        (baseline,) = results.baselines
        name = f"minus {truncate_middle(baseline, 24)}"
        name = _column_name(data, name, each, info.unit and info.difference_unit)
        columns[name] = _difference_column(data, environment, baseline, each, note=False)
    for metric in metrics:
        name = results.metrics[metric].label
        cells = _metric_column(data, environment, groups, metric, split, interval=metric == GAP)
        columns[name] = _with_reason(cells) if metric == GAP else cells
    columns["seeds"] = {each: number_cell(seeds[each], 0) for each in groups}
    return _table(data, environment, groups, columns)


def difference_table(data: PlotData, environment: str) -> Table:
    """Paired differences of the primary metric from the baselines, with their outcomes."""
    results, info = data.results, data.metric
    baselines = results.baselines
    if not data.is_pilot:
        baselines = [data.best_fixed(environment) or "", *_NAMED_BASELINES]
    columns = {
        _column_name(data, f"minus {each}", split): column
        for each in baselines
        for split in results.splits
        if (column := _difference_column(data, environment, each, split))
    }
    groups = [
        each for each in results.learners if any(each in column for column in columns.values())
    ]
    unit = f", {info.difference_unit}" if info.difference_unit else ""
    name = info.title or info.label
    return _table(data, f"Differences in {name}{unit}", groups, columns)


def pair_table(data: PlotData) -> Table:
    """Paired differences of `Results.pairs`: temperature laws, and agents with their predictors."""
    info, table = data.metric, data.statistics.differences
    rows: dict[str, dict[str, Cell]] = {}
    for row in to_records(pd.DataFrame(table[table["pairing"] != "baseline"])):
        label = f"{row['group']} minus {row['baseline']} ({row['pairing']})"
        rows.setdefault(label, {})[row["split"]] = _difference_cell(info, row, info.decimals or 0)
    unit = f", {info.difference_unit}" if info.difference_unit else ""
    return Table(
        f"Differences in {info.title or info.label} between pairs{unit}",
        ("pair", *map(data.split_label, data.results.splits)),
        tuple(
            table_row(label, *(cells.get(each, MISSING) for each in data.results.splits))
            for label, cells in rows.items()
        ),
    )


def sample_efficiency_table(data: PlotData, environment: str) -> Table:
    """Learning speed of the learners of a comparison."""
    jobs = data.results.finished
    finished = set(jobs.loc[jobs["environment"] == environment, "group"])
    groups = [each for each in data.results.learners if each in finished]
    columns = {
        data.results.metrics[each].label: _metric_column(
            data, environment, groups, each, EVALUATION
        )
        for each in ("steps", "area", "efficiency")
    }
    return _table(data, "Learning", groups, columns)


def tradeoff_table(data: PlotData, environment: str) -> Table:
    """Hypervolume and returns at several cost coefficients; no rows if none are drawn."""
    results, statistics = data.results, data.statistics
    metrics = tradeoff_metric_infos([*results.metrics])
    groups = [
        each
        for each in results.groups
        if metrics and statistics.estimate(environment, each, HYPERVOLUME, EVALUATION).n
    ]
    columns = {}
    for name, info in metrics.items():
        cells = _metric_column(data, environment, groups, name, EVALUATION, interval=True)
        columns[info.label] = _mark_best(cells, info)
    groups.sort(key=lambda group: columns[HYPERVOLUME][group].value, reverse=True)
    return _table(data, "Returns by cost coefficient", groups, columns)


def aggregate_table(data: PlotData) -> Table:
    """Statistics of the scores over all environments, sorted by interquartile mean."""
    rows = to_records(data.statistics.aggregates)
    columns = {
        statistic.replace("iqm", "IQM"): {
            row["group"]: mean_ci_cell(row["estimate"], row["low"], row["high"], 2)
            for row in rows
            if row["statistic"] == statistic
        }
        for statistic in STATISTICS
    }
    iqm = columns["IQM"]
    groups = sorted(iqm, key=lambda each: iqm[each].value, reverse=True)
    return _table(data, "Scores over all environments", groups, columns)


def score_matrix(data: PlotData) -> Table:
    """Score of each learner and of the best fixed span in each environment; the best is marked."""
    results, decimals = data.results, data.results.metrics["score"].decimals or 0
    rows = []
    for environment in results.environments:
        groups = [*results.learners, data.best_fixed(environment) or ""]
        found = [
            data.statistics.estimate(environment, each, "score", EVALUATION) for each in groups
        ]
        cells = {
            str(number): mean_ci_cell(each.mean, each.low, each.high, decimals)
            for number, each in enumerate(found)
        }
        if any(not math.isnan(each.mean) for each in found):
            rows.append(table_row(environment, *_mark_best(cells, MetricInfo("")).values()))
    return Table(
        "Scores by environment", ("environment", *results.learners, BEST_FIXED), tuple(rows)
    )


def separation_table(data: PlotData) -> Table:
    """The two learners that each environment tells apart, and the one that ranks most like it."""
    table = data.statistics.rank_correlations
    both = pd.concat(
        [table, table.rename(columns={"environment": "other", "other": "environment"})]
    )
    pairs = {row["environment"]: row for row in to_records(data.statistics.separations)}
    rows = []
    for environment in data.results.environments:
        found = {
            row["other"]: row["tau"]
            for row in to_records(both)
            if row["environment"] == environment and not math.isnan(row["tau"])
        }
        cells = [MISSING] * 5
        if row := pairs.get(environment):
            cells[0] = Cell(f"{row['group']} > {row['other']}", row["difference"])
            cells[1] = mean_ci_cell(row["difference"], row["low"], row["high"], 2)
            cells[2] = number_cell(row["elsewhere"], 2)
        if found:
            closest = max(found, key=found.__getitem__)
            cells[3:] = [Cell(closest, closest), number_cell(found[closest], 2)]
        if row or found:
            rows.append(table_row(environment, *cells))
    columns = ("separates", "difference of scores", "elsewhere", "ranks most like", "Kendall's tau")
    return Table("What each environment separates", ("environment", *columns), tuple(rows))


def by_action_tables(data: PlotData) -> list[Table]:
    """A table for each split of a pilot: the primary metric with the same action in every layer."""
    info, tables = data.metric, []
    for split in data.results.splits:
        rows = [row for row in to_records(data.statistics.by_action) if row["split"] == split]
        best = {
            group: min(row["mean"] for row in rows if row["group"] == group)
            for group in dict.fromkeys(row["group"] for row in rows)
        }
        columns: dict[str, dict[str, Cell]] = {}
        for row in sorted(rows, key=lambda row: row["action"]):
            group, mean = row["group"], row["mean"]
            text = format_number(info.scale * mean, info.decimals or 0)
            cell = Cell(text, mean, best=mean == best[group])
            columns.setdefault(str(row["action"]), {})[group] = cell
        if rows:
            title = f"{info.label} by action, {data.split_label(split)}{info.unit_suffix}"
            tables.append(_table(data, title, [*best], columns))
    return tables


def result_tables(data: PlotData) -> list[Table]:
    """The main table of each environment and, for several, those of all environments."""
    tables = [summary_table(data, each) for each in data.results.environments]
    if len(tables) > 1:
        tables += [aggregate_table(data), score_matrix(data), separation_table(data)]
    return [each for each in tables if each.rows]


def rich_result_tables(data: PlotData) -> list[RichTable]:
    """The main tables for the terminal, with the number of failed jobs of each group.

    That of a pilot is split in two to fit 80 characters.
    """
    results, rendered = data.results, []
    for table in result_tables(data):
        failures = {}
        for group in results.groups if table.title in results.environments else ():
            prefix = f"{slug(group)}/" if data.is_pilot else f"{slug(table.title)}/{slug(group)}/"
            if count := sum(name.startswith(prefix) for name, _ in results.failed):
                failures[group] = count
        if data.is_pilot:
            table, costs = _split(table, table.columns.index("parameters"))
            rendered += [to_rich_table(table, failures), to_rich_table(costs)]
        else:
            rendered.append(to_rich_table(table, failures))
    return rendered


def text_tables(data: PlotData) -> list[str]:
    """The main tables as text of at most 120 columns, without styles."""
    texts = []
    for table in rich_result_tables(data):
        text = io.StringIO()
        console = Console(file=text, width=120, emoji=False, color_system=None, force_jupyter=False)
        console.print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        texts.append("\n".join(lines).strip("\n"))
    return texts


def format_tables(data: PlotData, format_name: Literal["markdown", "latex", "csv"]) -> str:
    """Format the main tables; as LaTeX, those with the same columns are one ``tabular``.

    The CSV has the exact numbers of `wide_summary` in one table.
    """
    if format_name == "csv":
        return wide_summary(data.statistics.summary).to_csv(index=False, lineterminator="\n")
    tables = result_tables(data)
    if format_name == "markdown":
        return to_markdown(tables)
    groups = itertools.groupby(tables, lambda table: table.columns)
    return "\n".join(to_latex([*each]) for _, each in groups)


def wide_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """Summary with one row for each environment, group and split.

    Its columns are ``METRIC``, ``METRIC_low``, ``METRIC_high`` and ``METRIC_n``. Costs of a pilot,
    which belong to all splits, are in each row.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in to_records(summary):
        wide = rows.setdefault((row["environment"], row["group"], row["split"]), {})
        wide[row["metric"]] = row["mean"]
        wide |= {f"{row['metric']}_{each}": row[each] for each in ("low", "high", "n")}
    return pd.DataFrame(
        [
            {"environment": environment, "group": group, "split": split}
            | wide
            | rows.get((environment, group, ALL_SPLITS), {})
            for (environment, group, split), wide in rows.items()
            if split != ALL_SPLITS
        ]
    )


def headlines(data: PlotData) -> list[str]:
    """One line for each learner: its outcome against the best fixed span or the baseline.

    A few environments have lines of their own; of many, the outcomes are counted. The last split of
    a pilot counts.
    """
    results = data.results
    split = results.splits[-1] if results.splits else ""
    references = {each: data.best_fixed(each) for each in results.environments}
    if data.is_pilot:
        references = dict.fromkeys(results.environments, results.baselines[0])
    rows = [
        row
        for row in to_records(data.statistics.differences)
        if row["split"] == split and row["baseline"] == references[row["environment"]]
    ]
    by_group = {group: [row for row in rows if row["group"] == group] for group in results.learners}
    missing = [f"{group}: not compared" for group, own in by_group.items() if not own]
    if len(results.environments) > _FEW_ENVIRONMENTS:
        return [_count_outcomes(group, own) for group, own in by_group.items() if own] + missing
    return [
        _headline(data, row)
        for environment in results.environments
        for own in by_group.values()
        for row in own
        if row["environment"] == environment
    ] + missing


def _count_outcomes(group: str, rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["outcome"] for row in rows)
    counted = ", ".join(f"{name} in {counts[name]}" for name in sorted(counts))
    return f"{group}: {counted} of {len(rows)} environments vs. best fixed"


def footnotes(data: PlotData) -> list[str]:
    """Notes on the statistics, and the number of inconclusive differences with few seeds."""
    notes = [*(PILOT_FOOTNOTES if data.is_pilot else COMPARISON_FOOTNOTES)]
    if not data.is_pilot and GAP in _shown_metrics(data):
        notes.append(GAP_FOOTNOTE)
    table = data.statistics.differences
    few = table[table["n"] < _FEW_SEEDS]
    inconclusive = [*few["outcome"]].count("inconclusive")
    if inconclusive:
        notes.append(
            f"{inconclusive} of {len(few)} differences from baselines are inconclusive, with fewer "
            f"than {_FEW_SEEDS} seeds."
        )
    return notes


def _shown_metrics(data: PlotData) -> tuple[str, ...]:
    """Metrics of an evaluation that were measured, the generalization gap only with levels."""
    summary = data.statistics.summary
    measured = {*summary["metric"][summary["n"] > 0]}
    return tuple(each for each in _EVALUATION_METRICS if each in measured)


def _headline(data: PlotData, row: Mapping[str, Any]) -> str:
    info = data.metric
    numbers = [info.scale * row[each] for each in ("difference", "low", "high")]
    decimals = decimals_for(numbers) if info.decimals is None else info.decimals
    difference, low, high = (format_number(each, decimals) for each in numbers)
    unit = f" {info.difference_unit}" if info.difference_unit else ""
    interval = "" if math.isnan(numbers[1]) else f", 95 % CI {low} to {high}"
    where = f" on {data.split_label(row['split'])}" if len(data.results.splits) > 1 else ""
    place = f"{row['environment']}, " if len(data.results.environments) > 1 else ""
    return (
        f"{place}{row['group']}: {row['outcome']} vs. {row['baseline']}{where} "
        f"(difference {difference}{unit}{interval}, n = {row['n']})"
    )


def _metric_column(
    data: PlotData,
    environment: str,
    groups: Sequence[str],
    metric: str,
    split: str,
    *,
    interval: bool = False,
) -> Column:
    info = data.results.metrics[metric]
    found = {each: data.statistics.estimate(environment, each, metric, split) for each in groups}
    decimals = info.decimals
    if decimals is None:
        decimals = decimals_for(info.scale * each.mean for each in found.values())
    column = {}
    for group, (mean, low, high, _) in found.items():
        mean, low, high = (info.scale * each for each in (mean, low, high))
        low, high = (low, high) if interval else (math.nan, math.nan)
        column[group] = mean_ci_cell(mean, low, high, decimals)
    return column


def _with_reason(gaps: Column) -> Column:
    return {
        group: replace(cell, note="no levels") if math.isnan(float(cell.value)) else cell
        for group, cell in gaps.items()
    }


def _difference_column(
    data: PlotData, environment: str, baseline: str, split: str, *, note: bool = True
) -> Column:
    info, table = data.metric, data.statistics.differences
    is_here = (table["pairing"] == "baseline") & (table["environment"] == environment)
    table = pd.DataFrame(table[is_here])
    rows = [
        row for row in to_records(table) if (row["baseline"], row["split"]) == (baseline, split)
    ]
    decimals = decimals_for(table["difference"]) if info.decimals is None else info.decimals
    return {
        row["group"]: _difference_cell(info, row if note else {**row, "outcome": ""}, decimals)
        for row in rows
    }


def _difference_cell(info: MetricInfo, row: Mapping[str, Any], decimals: int) -> Cell:
    mean, low, high = (info.scale * row[each] for each in ("difference", "low", "high"))
    return mean_ci_cell(mean, low, high, decimals, sign=True, note=row["outcome"])


def _mark_best(column: Column, info: MetricInfo) -> Column:
    """Mark the best value, except for the oracle, which looks ahead."""
    known = {
        group: float(cell.value)
        for group, cell in column.items()
        if group != "oracle" and not math.isnan(float(cell.value))
    }
    if not known:
        return column
    best = (max if info.higher_is_better else min)(known, key=known.__getitem__)
    return {**column, best: replace(column[best], best=True)}


def _column_name(data: PlotData, name: str, split: str, unit: str = "") -> str:
    """Name of a column, with the split if there are several."""
    several = len(data.results.splits) > 1
    return f"{name}{f' {split}' if several else ''}{f', {unit}' if unit else ''}"


def _table(
    data: PlotData, title: str, groups: Sequence[str], columns: Mapping[str, Column]
) -> Table:
    rows = tuple(
        table_row(
            group,
            *(column.get(group, MISSING) for column in columns.values()),
            is_baseline=not data.is_pilot and group in data.results.baselines,
        )
        for group in groups
    )
    return Table(title, ("variant" if data.is_pilot else "agent", *columns), rows)


def _split(table: Table, column: int) -> tuple[Table, Table]:
    """Split a table before a column; both parts keep the labels."""
    left = [replace(row, cells=row.cells[:column]) for row in table.rows]
    right = [replace(row, cells=(row.cells[0], *row.cells[column:])) for row in table.rows]
    columns = (table.columns[0], *table.columns[column:])
    return (
        replace(table, columns=table.columns[:column], rows=tuple(left)),
        Table(f"{table.title}: costs", columns, tuple(right)),
    )
