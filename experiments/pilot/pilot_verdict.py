"""What the differences of a pilot say, in sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from spangym.experiments.analysis.verdict import join_words
from spangym.experiments.pilot.metrics import MetricInfo
from spangym.experiments.pilot.pilot_differences import ErrorDifference
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.plots.panels import to_records

_ORDER = ("better", "equal", "inconclusive", "worse")


def make_pilot_verdict(
    rows: PilotRows,
    metric: MetricInfo,
    errors: pd.DataFrame,
    differences: Sequence[ErrorDifference],
    agents: Sequence[ErrorDifference],
) -> str:
    """How the variants stand to plain attention, a sentence for those that stand alike.

    Args:
        rows: The pilot.
        metric: Of its task.
        errors: Mean errors, as `PilotSummary.errors` has them.
        differences: Of the variants from the baseline.
        agents: Of variants whose spans an agent decides from the same layer without.
    """
    if not len(rows.trainings):
        return "No training is finished."
    known = {
        (row["variant"], row["split"]): float(row["error"])
        for row in to_records(errors)
        if math.isfinite(row["error"])
    }
    own = [split for split in rows.splits if (rows.baseline, split) in known]
    if not own:
        return f"{rows.baseline} has no finished training: there is nothing to compare with."
    levels = [
        f"{metric.format(known[rows.baseline, split])} on {metric.of([split])}" for split in own
    ]
    sentences = [f"{rows.baseline} reaches {_article(metric)}{join_words(levels)}."]
    if differences and all(each.seeds == 1 for each in differences):
        sentences.append(_single_seed(rows, metric, known))
    else:
        sentences += _standings(rows, metric, differences)
    compared = {each.variant for each in differences}
    lacking = [each for each in rows.variants if each not in (*compared, rows.baseline)]
    if lacking:
        verb = "have" if len(lacking) > 1 else "has"
        sentences.append(f"{join_words(lacking)} {verb} no error to compare with it.")
    judged = [each for each in agents if each.split == rows.splits[-1]]
    if judged:
        sentences.append(_agents(metric, judged))
    return " ".join(sentences)


def _article(metric: MetricInfo) -> str:
    return "" if metric.unit == metric.name else f"a {metric.name} of "


def _single_seed(
    rows: PilotRows, metric: MetricInfo, known: Mapping[tuple[str, str], float]
) -> str:
    split = rows.splits[-1]
    here = {
        variant: known[variant, split] for variant in rows.variants if (variant, split) in known
    }
    said = f"A single training seed cannot tell the others from {rows.baseline}"
    if len(here) < 2:
        return f"{said}."
    low, high = min(here, key=here.__getitem__), max(here, key=here.__getitem__)
    return (
        f"{said}; on {metric.of([split])} {low} has the lowest error, {metric.format(here[low])}, "
        f"and {high} the highest, {metric.format(here[high])}."
    )


def _standings(
    rows: PilotRows, metric: MetricInfo, differences: Sequence[ErrorDifference]
) -> list[str]:
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for variant, own in itertools.groupby(differences, key=lambda each: each.variant):
        standing = tuple((each.split, each.outcome) for each in own)
        alike.setdefault(standing, []).append(variant)

    def place(standing: tuple[tuple[str, str], ...]) -> list[int]:
        # What is evaluated last counts most.
        return [_ORDER.index(verdict) for _, verdict in reversed(standing)]

    return [
        _standing(alike[standing], standing, rows, metric) for standing in sorted(alike, key=place)
    ]


def _standing(
    who: Sequence[str],
    standing: Sequence[tuple[str, str]],
    rows: PilotRows,
    metric: MetricInfo,
) -> str:
    verb = "are" if len(who) > 1 else "is"
    words = {
        "better": f"{verb} better than",
        "equal": "equal" if len(who) > 1 else "equals",
        "inconclusive": "cannot be told from",
        "worse": f"{verb} worse than",
    }
    clauses = []
    for verdict in _ORDER:
        splits = [split for split, each in standing if each == verdict]
        if splits:
            other = "it" if clauses else rows.baseline
            # What holds everywhere needs no place.
            where = f" on {metric.of(splits)}" if len(splits) < len(rows.splits) else ""
            clauses.append(f"{words[verdict]} {other}{where}")
    return f"{join_words(who)} {join_words(clauses)}."


def _agents(metric: MetricInfo, judged: Sequence[ErrorDifference]) -> str:
    said = [
        f"{metric.format_difference(each.difference, each.low, each.high)} in {each.variant} "
        f"({each.outcome})"
        for each in judged
    ]
    what = "error" if metric.unit == metric.name else metric.name
    return (
        "To let an agent decide the spans, instead of the same layer's predictor alone, changes "
        f"the {what} on {metric.of([judged[0].split])} by {join_words(said)}."
    )
