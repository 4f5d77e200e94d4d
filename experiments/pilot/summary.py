"""What the rows of a pilot say."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from spangym.experiments.analysis.intervals import Floats, t_interval
from spangym.experiments.pilot.metrics import METRICS, MetricInfo
from spangym.experiments.pilot.pilot_differences import (
    ErrorDifference,
    last_eval_rows,
    paired_difference,
)
from spangym.experiments.pilot.pilot_remarks import make_pilot_remarks
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_verdict import make_pilot_verdict
from spangym.experiments.plots.panels import to_records

_ERRORS = ("error", "character_error", "loss")
_COSTS = ("milliseconds", "ratio", "seconds", "qk_pairs", "share", "span")
_DIFFERENCES = [each.name for each in fields(ErrorDifference)]


@dataclass(frozen=True)
class PilotSummary:
    """What the rows of a pilot say. The unit of replication is the training seed.

    Each mean has columns with ``_low`` and ``_high`` behind its name: bounds of its 95 % interval
    by Student's t, NaN for a single seed.

    Attributes:
        metric: How errors are called and written.
        errors: A row for each variant and split, in the order of the study: ``variant``, ``split``,
            ``seeds`` (how many), and the means of the last evaluations ``error``,
            ``character_error`` and ``loss``.
        costs: A row for each variant: ``variant``, ``seeds``, ``parameters``, ``updates`` (the
            mean), ``stopped`` (how many trainings ended early), and the means ``milliseconds`` (of
            an update), ``ratio`` (of these to the baseline's, on the same seeds), ``seconds``,
            ``qk_pairs``, ``share`` (these over those of full attention) and ``span``.
        differences: `ErrorDifference` as rows: each variant minus the baseline, on each split.
        laws: The same between variants that differ in their temperature law alone.
        agents: The same for variants whose spans an agent decides, minus the same layer with its
            predictor alone.
        by_span: A row for each variant, split and action: ``variant``, ``split``, ``action``,
            ``seeds`` and the mean ``error``.
        verdict: What all this says of the variants, in a few sentences.
        remarks: What has to be known to read the tables, a sentence or two each.
    """

    metric: MetricInfo
    errors: pd.DataFrame
    costs: pd.DataFrame
    differences: pd.DataFrame
    laws: pd.DataFrame
    agents: pd.DataFrame
    by_span: pd.DataFrame
    verdict: str
    remarks: tuple[str, ...]


def summarize_pilot(
    rows: PilotRows,
    laws: Mapping[str, str] | None = None,
    agents: Mapping[str, str] | None = None,
) -> PilotSummary:
    """Make the statistics of a pilot.

    Args:
        rows: What its trainings left behind.
        laws: Temperature laws by label, of variants that differ in nothing else.
        agents: Labels of variants whose spans an agent decides, each with the label of the same
            layer with its predictor alone.
    """
    metric, laws, agents = METRICS[rows.task], laws or {}, agents or {}
    finals = last_eval_rows(rows)
    errors = _means(rows, finals, ["variant", "split"], _ERRORS)
    others = [each for each in rows.variants if each != rows.baseline]
    differences = _differences(rows, finals, [(each, rows.baseline) for each in others])
    here = [each for each in rows.variants if each in laws]
    pairs = [pair for pair in itertools.combinations(here, 2) if laws[pair[0]] != laws[pair[1]]]
    between_laws = _differences(rows, finals, pairs)
    with_agents = _differences(
        rows, finals, [(each, agents[each]) for each in rows.variants if each in agents]
    )
    return PilotSummary(
        metric=metric,
        errors=errors,
        costs=_costs(rows),
        differences=_table(differences),
        laws=_table(between_laws),
        agents=_table(with_agents),
        by_span=_means(rows, rows.by_span, ["variant", "split", "action"], ("error",)),
        verdict=make_pilot_verdict(rows, metric, errors, differences, with_agents),
        remarks=make_pilot_remarks(rows, metric, differences, laws, between_laws),
    )


def _differences(
    rows: PilotRows, finals: pd.DataFrame, pairs: Iterable[tuple[str, str]]
) -> list[ErrorDifference]:
    found = (
        paired_difference(finals, variant, other, split)
        for variant, other in pairs
        for split in rows.splits
    )
    return [each for each in found if each is not None]


def _table(differences: Sequence[ErrorDifference]) -> pd.DataFrame:
    return pd.DataFrame(differences, columns=_DIFFERENCES)


def _costs(rows: PilotRows) -> pd.DataFrame:
    trainings = rows.trainings
    plain = {
        row["seed"]: row["milliseconds"]
        for row in to_records(trainings)
        if row["variant"] == rows.baseline
    }
    trainings = trainings.assign(
        ratio=[
            row["milliseconds"] / plain.get(row["seed"], np.nan) for row in to_records(trainings)
        ],
        share=trainings["qk_pairs"] / trainings["full_qk_pairs"],
    )
    groups = trainings.groupby("variant")
    firsts = pd.DataFrame(
        {
            "parameters": groups["parameters"].first(),
            "updates": groups["updates"].mean(),
            "stopped": groups["stopped"].agg(lambda said: int((said != "").sum())),
        }
    )
    return _means(rows, trainings, ["variant"], _COSTS).merge(
        firsts, left_on="variant", right_index=True
    )


def _means(
    rows: PilotRows, table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """Means over seeds with their intervals, in the order of variants and splits."""
    lines = []
    for _, group in table.groupby([*by]):
        line: dict[str, Any] = {name: group[name].iloc[0] for name in by}
        line["seeds"] = group["seed"].nunique()
        for column in columns:
            line |= _mean(column, group[column].dropna().to_numpy(float))
        lines.append(line)
    order = {"variant": rows.variants.index, "split": rows.splits.index}
    lines.sort(key=lambda line: [order.get(name, int)(line[name]) for name in by])
    bounds = (f"{column}{end}" for column in columns for end in ("", "_low", "_high"))
    return pd.DataFrame(lines, columns=[*by, "seeds", *bounds])


def _mean(column: str, values: Floats) -> dict[str, float]:
    mean = float(values.mean()) if len(values) else np.nan
    low, high = t_interval(values) if len(values) > 1 else (np.nan, np.nan)
    return {column: mean, f"{column}_low": float(low), f"{column}_high": float(high)}
