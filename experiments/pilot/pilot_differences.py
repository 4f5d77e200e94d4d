"""Paired differences of variants' errors: on the same training seeds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from spangym.experiments.analysis.differences import Outcome, classify_difference
from spangym.experiments.analysis.intervals import t_interval
from spangym.experiments.pilot.pilot_rows import PilotRows


@dataclass(frozen=True)
class ErrorDifference:
    """A variant's final error minus another's, on one split.

    Attributes:
        variant: Label.
        other: Label.
        split: Where both were evaluated.
        difference: Mean over the training seeds that both have, as errors are stored.
        low: Lower bound of its 95 % interval; NaN for a single seed.
        high: Upper bound.
        seeds: How many training seeds.
        outcome: Of the variant: ``better`` or ``worse`` where the interval leaves 0 out, ``equal``
            where no seed differs by more than rounding, else ``inconclusive``.
    """

    variant: str
    other: str
    split: str
    difference: float
    low: float
    high: float
    seeds: int
    outcome: Outcome


def last_eval_rows(rows: PilotRows) -> pd.DataFrame:
    """The last evaluation of each finished training on each split.

    Args:
        rows: The pilot.

    Returns:
        A row each: ``variant``, ``seed``, ``split``, ``error``, ``character_error``, ``loss``.
    """
    finished = rows.trainings[["variant", "seed"]]
    ordered = rows.evaluations.merge(finished, on=["variant", "seed"]).sort_values("update")
    last = ordered.drop_duplicates(["variant", "seed", "split"], keep="last")
    columns = ["variant", "seed", "split", "error", "character_error", "loss"]
    return pd.DataFrame(last[columns].reset_index(drop=True))


def paired_difference(
    finals: pd.DataFrame, variant: str, other: str, split: str
) -> ErrorDifference | None:
    """The difference of two variants; None if they have no training seed in common.

    Args:
        finals: As `last_eval_rows` makes them.
        variant: Label of the variant.
        other: Label of what is subtracted.
        split: Where they were evaluated.
    """
    here = finals[(finals["split"] == split) & finals["error"].notna()].set_index("seed")
    own, others = (here.loc[here["variant"] == each, "error"] for each in (variant, other))
    values = (own - others).dropna().to_numpy(float)
    if not len(values):
        return None
    low, high = (float(bound) for bound in t_interval(values))
    baseline_mean = float(others.to_numpy(float).mean())
    # Less of an error is better.
    outcome = classify_difference(-values, baseline_mean, -high, -low)
    mean = float(values.mean())
    return ErrorDifference(variant, other, split, mean, low, high, len(values), outcome)
