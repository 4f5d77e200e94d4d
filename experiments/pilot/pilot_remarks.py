"""What has to be known to read the tables of a pilot."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from spangym.experiments.analysis.verdict import join_words
from spangym.experiments.pilot.metrics import MetricInfo
from spangym.experiments.pilot.pilot_differences import ErrorDifference
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.plots.panels import to_records
from spangym.experiments.plots.style import format_tick

_FEW = 5
"""Below so many training seeds an open difference is no surprise."""


def make_pilot_remarks(
    rows: PilotRows,
    metric: MetricInfo,
    differences: Sequence[ErrorDifference],
    laws: Mapping[str, str],
    between_laws: Sequence[ErrorDifference],
) -> tuple[str, ...]:
    """The remarks, each a sentence or two.

    Args:
        rows: The pilot.
        metric: Of its task.
        differences: Of the variants from the baseline.
        laws: Temperature laws, by labels of variants that differ in nothing else.
        between_laws: Differences between these.
    """
    return (
        *_seeds(rows, differences),
        *_between_laws(rows, metric, laws, between_laws),
        *_stopped(rows),
        *_untrained(rows),
    )


def _seeds(rows: PilotRows, differences: Sequence[ErrorDifference]) -> list[str]:
    seeds = sorted(set(rows.trainings["seed"]))
    if not seeds:
        return []
    if len(seeds) == 1:
        return [
            "There is a single training seed: nothing is known of how far others would lie from "
            "it, so there are no intervals, and no difference is told from chance."
        ]
    remarks = [
        "Intervals are of 95 %, by Student's t over training seeds; differences are paired by seed."
    ]
    if len(seeds) < _FEW and any(each.outcome == "inconclusive" for each in differences):
        remarks.append(
            f"With {len(seeds)} training seeds only large differences can be told from chance: one "
            "that is open is not shown to be none."
        )
    if len(differences) > 1:
        remarks.append(
            f"{len(differences)} differences from {rows.baseline} are judged at 95 % each, without "
            "correction for their number: where there is none, 1 in 20 is still expected to show."
        )
    return remarks


def _between_laws(
    rows: PilotRows,
    metric: MetricInfo,
    laws: Mapping[str, str],
    between_laws: Sequence[ErrorDifference],
) -> list[str]:
    remarks = []
    pairs = itertools.groupby(between_laws, key=lambda each: (each.variant, each.other))
    for (variant, other), group in pairs:
        found = [*group]
        alone = found[0].seeds == 1
        said = [
            f"{metric.format_difference(each.difference, each.low, each.high)} on "
            f"{metric.of([each.split])}{'' if alone else f' ({_winner(each, laws)})'}"
            for each in found
        ]
        over = (
            "from one training seed, which shows no winner"
            if alone
            else f"over {found[0].seeds} training seeds"
        )
        remarks.append(
            f"Temperature laws: the error of {variant} minus that of {other} is {join_words(said)}, "
            f"{over}."
        )
    if len(set(laws.values())) > 1 and not remarks and len(rows.trainings):
        remarks.append("The temperature laws have no training seed in common to compare them on.")
    return remarks


def _winner(difference: ErrorDifference, laws: Mapping[str, str]) -> str:
    if difference.outcome == "better":
        return f"{laws[difference.variant]} wins"
    if difference.outcome == "worse":
        return f"{laws[difference.other]} wins"
    return "neither wins"


def _stopped(rows: PilotRows) -> list[str]:
    stopped = rows.trainings[rows.trainings["stopped"] != ""]
    if not len(stopped):
        return []
    said = []
    rows_by_reason: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in to_records(pd.DataFrame(stopped)):
        rows_by_reason.setdefault((row["variant"], row["stopped"]), []).append(row)
    for (variant, why), own in rows_by_reason.items():
        seeds = join_words([str(row["seed"]) for row in own])
        updates = sorted(row["updates"] for row in own)
        first, last = format_tick(updates[0]), format_tick(updates[-1])
        when = first if first == last else f"{first} to {last}"
        which = "seeds" if len(own) > 1 else "seed"
        said.append(f"{variant} with {which} {seeds} after {when} updates ({why})")
    return [f"Ended early, and judged by what was reached until then: {join_words(said)}."]


def _untrained(rows: PilotRows) -> list[str]:
    seeds = Counter(row["variant"] for row in to_records(rows.trainings))
    most = max(seeds.values(), default=0)
    fewer = [
        f"{variant} has {seeds[variant]} of {most}"
        for variant in rows.variants
        if 0 < seeds[variant] < most
    ]
    none = [variant for variant in rows.variants if most and not seeds[variant]]
    remarks = []
    if fewer:
        remarks.append(f"Training seeds are missing: {join_words(fewer)}.")
    if none:
        verb = "have" if len(none) > 1 else "has"
        remarks.append(f"{join_words(none)} {verb} no finished training.")
    return remarks
