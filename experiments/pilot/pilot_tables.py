"""The tables of a pilot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.table import Table as RichTable

from spangym.experiments.pilot.metrics import MetricInfo
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.style import truncate_middle
from spangym.experiments.reports.tables import (
    Cell,
    Table,
    format_number,
    mean_ci_cell,
    number_cell,
    table_row,
)
from spangym.experiments.reports.terminal_tables import to_rich_table
from spangym.utils.text import DASH, slug

_MISSING = Cell(DASH, math.nan)


def pilot_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """How each variant fared and what it cost, in the order of the study."""
    errors, costs = error_table(rows, summary), cost_table(summary)
    lines = [
        table_row(own.label, *own.cells[1:], *other.cells[1:])
        for own, other in zip(errors.rows, costs.rows, strict=True)
    ]
    return Table("Variants", (*errors.columns, *costs.columns[1:]), tuple(lines))


def error_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """Errors of each variant, and the difference from plain attention on the last split."""
    metric, last = summary.metric, rows.splits[-1] if rows.splits else ""
    errors = {(row["variant"], row["split"]): row for row in to_records(summary.errors)}
    differences = {(row["variant"], row["split"]): row for row in to_records(summary.differences)}
    best = _best(rows, summary)
    lines = []
    for variant in summary.costs["variant"]:
        cells = [
            _error(metric, errors.get((variant, split)), best[split] == variant)
            for split in rows.splits
        ]
        if metric.has_character_errors:
            row = errors.get((variant, last), {"character_error": math.nan})
            cells.append(number_cell(metric.scale * row["character_error"], metric.decimals))
        cells.append(_difference(metric, differences.get((variant, last))))
        lines.append(table_row(variant, *cells))
    unit = "" if metric.unit == metric.name else f", {metric.difference_unit}"
    several = f" {last}" if len(rows.splits) > 1 else ""
    columns = (
        "variant",
        *(metric.column_name(metric.short, split, rows.splits) for split in rows.splits),
        *([metric.column_name("CER", last, rows.splits)] if metric.has_character_errors else ()),
        f"minus {truncate_middle(rows.baseline, 24)}{several}{unit}",
    )
    return Table("Errors", columns, tuple(lines))


def cost_table(summary: PilotSummary) -> Table:
    """What each variant costs."""
    lines = [
        table_row(
            row["variant"],
            number_cell(row["parameters"], 0),
            number_cell(row["milliseconds"], 0 if row["milliseconds"] >= 99.95 else 1),
            number_cell(row["ratio"], 2),
            number_cell(100 * row["share"], 0),
            number_cell(row["span"], 1),
        )
        for row in to_records(summary.costs)
    ]
    columns = ("variant", "parameters", "ms an update", "ratio", "keys, % of full", "span")
    return Table("Costs", columns, tuple(lines))


def difference_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """Differences from plain attention on all splits, with what they say."""
    metric = summary.metric
    found = {(row["variant"], row["split"]): row for row in to_records(summary.differences)}
    lines = [
        table_row(
            variant,
            *(_difference(metric, found.get((variant, split)), note=True) for split in rows.splits),
        )
        for variant in rows.variants
        if any((variant, split) in found for split in rows.splits)
    ]
    columns = ("variant", *(f"{metric.of([split])}" for split in rows.splits))
    unit = metric.difference_unit
    return Table(f"{metric.title} minus {rows.baseline}'s, {unit}", columns, tuple(lines))


def by_span_tables(rows: PilotRows, summary: PilotSummary) -> list[Table]:
    """A table for each split: errors at spans that are set, the same action in every layer."""
    metric = summary.metric
    tables = []
    for split in rows.splits:
        here = [row for row in to_records(summary.by_span) if row["split"] == split]
        actions = sorted({row["action"] for row in here})
        found = {(row["variant"], row["action"]): row["error"] for row in here}
        lines = []
        for variant in dict.fromkeys(row["variant"] for row in here):
            own = [found.get((variant, action), math.nan) for action in actions]
            lowest = min((each for each in own if math.isfinite(each)), default=math.nan)
            lines.append(
                table_row(
                    variant,
                    *(
                        Cell(
                            format_number(metric.scale * each, metric.decimals),
                            each,
                            best=each == lowest,
                        )
                        for each in own
                    ),
                )
            )
        if lines:
            title = f"{metric.title} by action, {metric.of([split])}{metric.unit_suffix}"
            columns = ("variant", *map(str, actions))
            tables.append(Table(title, columns, tuple(lines)))
    return tables


def rich_pilot_tables(rows: PilotRows, summary: PilotSummary) -> list[RichTable]:
    """Errors and costs for the terminal. A variant of which trainings failed says so."""
    errors = to_rich_table(error_table(rows, summary), _failures(rows))
    return [errors, to_rich_table(cost_table(summary))]


def pilot_csv(summary: PilotSummary) -> str:
    """All numbers, a row for each variant and split."""
    differences = summary.differences.rename(
        columns={"low": "difference_low", "high": "difference_high"}
    ).drop(columns=["other", "seeds"])
    table = summary.errors.merge(differences, on=["variant", "split"], how="left")
    table = table.merge(summary.costs.drop(columns="seeds"), on="variant", how="left")
    return _csv(table)


def by_span_csv(summary: PilotSummary) -> str:
    """Errors at spans that are set, a row for each variant, split and action."""
    return _csv(summary.by_span)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def _best(rows: PilotRows, summary: PilotSummary) -> dict[str, str]:
    """The variant of the lowest error, by split."""
    errors = to_records(summary.errors)
    return {
        split: min(
            (row for row in errors if row["split"] == split and math.isfinite(row["error"])),
            key=lambda row: row["error"],
            default={"variant": ""},
        )["variant"]
        for split in rows.splits
    }


def _error(metric: MetricInfo, row: Mapping[str, Any] | None, best: bool) -> Cell:
    if row is None:
        return _MISSING
    value, low, high = (metric.scale * row[f"error{end}"] for end in ("", "_low", "_high"))
    return mean_ci_cell(value, low, high, metric.decimals, best=best)


def _difference(metric: MetricInfo, row: Mapping[str, Any] | None, *, note: bool = False) -> Cell:
    if row is None:
        return _MISSING
    value, low, high = (metric.scale * row[name] for name in ("difference", "low", "high"))
    said = row["outcome"] if note else ""
    return mean_ci_cell(value, low, high, metric.decimals, sign=True, note=said)


def _failures(rows: PilotRows) -> dict[str, int]:
    """How many trainings of each variant failed, if any did."""
    labels = {slug(variant): variant for variant in rows.variants}
    counts = Counter(labels.get(name.split("/")[0]) for name, _ in rows.failed)
    return {variant: count for variant, count in counts.items() if variant is not None}
