"""The tables of a pilot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich import table as rich_table

from spangym.experiments.pilot.metrics import Measure
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.summary import PilotSummary
from spangym.experiments.plots.panels import records
from spangym.experiments.plots.style import DASH, shortened
from spangym.experiments.reports.tables import Cell, Table, estimate, make_line, number, written
from spangym.experiments.reports.terminal_tables import render_table
from spangym.experiments.studies.study import slug

_MISSING = Cell(DASH, math.nan)


def pilot_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """How each variant fared and what it cost, in the order of the plan."""
    errors, costs = error_table(rows, summary), cost_table(summary)
    lines = [
        make_line(own.label, *own.cells[1:], *other.cells[1:])
        for own, other in zip(errors.lines, costs.lines, strict=True)
    ]
    return Table("Variants", (*errors.columns, *costs.columns[1:]), tuple(lines))


def error_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """Errors of each variant, and the difference from plain attention on the last split."""
    measure, last = summary.measure, rows.splits[-1] if rows.splits else ""
    errors = {(row["variant"], row["split"]): row for row in records(summary.errors)}
    differences = {(row["variant"], row["split"]): row for row in records(summary.differences)}
    best = _best(rows, summary)
    lines = []
    for variant in summary.costs["variant"]:
        cells = [
            _error(measure, errors.get((variant, split)), best[split] == variant)
            for split in rows.splits
        ]
        if measure.characters:
            row = errors.get((variant, last), {"character_error": math.nan})
            cells.append(number(measure.scale * row["character_error"], measure.places))
        cells.append(_difference(measure, differences.get((variant, last))))
        lines.append(make_line(variant, *cells))
    unit = "" if measure.unit == measure.name else f", {measure.unit_of_differences}"
    several = f" {last}" if len(rows.splits) > 1 else ""
    columns = (
        "variant",
        *(measure.head(measure.short, split, rows.splits) for split in rows.splits),
        *([measure.head("CER", last, rows.splits)] if measure.characters else ()),
        f"minus {shortened(rows.baseline, 24)}{several}{unit}",
    )
    return Table("Errors", columns, tuple(lines))


def cost_table(summary: PilotSummary) -> Table:
    """What each variant costs."""
    lines = [
        make_line(
            row["variant"],
            number(row["parameters"], 0),
            number(row["milliseconds"], 0 if row["milliseconds"] >= 99.95 else 1),
            number(row["ratio"], 2),
            number(100 * row["share"], 0),
            number(row["span"], 1),
        )
        for row in records(summary.costs)
    ]
    columns = ("variant", "parameters", "ms an update", "ratio", "keys, % of full", "span")
    return Table("Costs", columns, tuple(lines))


def difference_table(rows: PilotRows, summary: PilotSummary) -> Table:
    """Differences from plain attention on all splits, with what they say."""
    measure = summary.measure
    found = {(row["variant"], row["split"]): row for row in records(summary.differences)}
    lines = [
        make_line(
            variant,
            *(
                _difference(measure, found.get((variant, split)), note=True)
                for split in rows.splits
            ),
        )
        for variant in rows.variants
        if any((variant, split) in found for split in rows.splits)
    ]
    columns = ("variant", *(f"{measure.of([split])}" for split in rows.splits))
    unit = measure.unit_of_differences
    return Table(f"{measure.title} minus {rows.baseline}'s, {unit}", columns, tuple(lines))


def by_span_tables(rows: PilotRows, summary: PilotSummary) -> list[Table]:
    """A table for each split: errors at spans that are set, the same action in every layer."""
    measure = summary.measure
    tables = []
    for split in rows.splits:
        here = [row for row in records(summary.by_span) if row["split"] == split]
        actions = sorted({row["action"] for row in here})
        found = {(row["variant"], row["action"]): row["error"] for row in here}
        lines = []
        for variant in dict.fromkeys(row["variant"] for row in here):
            own = [found.get((variant, action), math.nan) for action in actions]
            lowest = min((each for each in own if math.isfinite(each)), default=math.nan)
            lines.append(
                make_line(
                    variant,
                    *(
                        Cell(
                            written(measure.scale * each, measure.places), each, best=each == lowest
                        )
                        for each in own
                    ),
                )
            )
        if lines:
            title = f"{measure.title} by action, {measure.of([split])}{measure.in_unit}"
            columns = ("variant", *map(str, actions))
            tables.append(Table(title, columns, tuple(lines)))
    return tables


def render_pilot_tables(rows: PilotRows, summary: PilotSummary) -> list[rich_table.Table]:
    """Errors and costs for the terminal. A variant of which trainings failed says so."""
    errors = render_table(error_table(rows, summary), _failures(rows))
    return [errors, render_table(cost_table(summary))]


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
    errors = records(summary.errors)
    return {
        split: min(
            (row for row in errors if row["split"] == split and math.isfinite(row["error"])),
            key=lambda row: row["error"],
            default={"variant": ""},
        )["variant"]
        for split in rows.splits
    }


def _error(measure: Measure, row: Mapping[str, Any] | None, best: bool) -> Cell:
    if row is None:
        return _MISSING
    value, low, high = (measure.scale * row[f"error{end}"] for end in ("", "_low", "_high"))
    return estimate(value, low, high, measure.places, best=best)


def _difference(measure: Measure, row: Mapping[str, Any] | None, *, note: bool = False) -> Cell:
    if row is None:
        return _MISSING
    value, low, high = (measure.scale * row[name] for name in ("difference", "low", "high"))
    said = row["verdict"] if note else ""
    return estimate(value, low, high, measure.places, sign=True, note=said)


def _failures(rows: PilotRows) -> dict[str, int]:
    """How many trainings of each variant failed, if any did."""
    labels = {slug(variant): variant for variant in rows.variants}
    counts = Counter(labels.get(name.split("/")[0]) for name, _ in rows.failed)
    return {variant: count for variant, count in counts.items() if variant is not None}
