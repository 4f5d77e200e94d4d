"""What the rows of a run say: one line an agent, with intervals over training seeds."""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from .studies import FIXED, REFERENCES

CONFIDENCE = 0.95


def interval_half_width(values: pd.Series) -> float:
    """Half of the 95 % interval of a mean, by Student's t over the values.

    The values must be independent: one for each training seed. With three of them the interval is
    wide (4.3 standard errors); that is what three seeds can say.

    Args:
        values: One mean return a training seed.

    Returns:
        The half width; NaN for fewer than two values.

    Example:
        >>> round(interval_half_width(pd.Series([1.0, 2.0, 3.0])), 3)
        2.484
    """
    count = len(values)
    if count < 2:
        return math.nan
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return float(quantile * values.std(ddof=1) / math.sqrt(count))


def summarise(evaluation: pd.DataFrame, seconds: pd.DataFrame, decisions: int) -> pd.DataFrame:
    """One row an agent, the highest mean return first.

    The unit of replication is the training seed: episodes are averaged within it first. Scores are
    0 for random and 1 for the best fixed span, both references that no compared agent changes.

    Args:
        evaluation: Rows of ``evaluation.csv``.
        seconds: Columns ``agent``, ``seed`` and ``wall_seconds``, one row a trial.
        decisions: Decisions in an episode.

    Returns:
        Indexed by agent, with ``mean_return``, ``interval`` (half of the 95 % interval over
        training seeds, NaN for a single one), ``score`` (NaN where the references are equal),
        ``mean_span`` in tokens, ``visited_keys`` a decision, ``seconds`` a trial, ``seeds``, and
        ``reference`` (a policy that learns nothing).
    """
    by_seed = evaluation.groupby(["agent", "training_seed"])[
        ["return", "mean_span", "visited_keys"]
    ].mean()
    by_agent = by_seed.groupby("agent")
    summary = by_agent[["mean_span"]].mean()
    summary.insert(0, "mean_return", by_agent["return"].mean())
    summary.insert(1, "interval", by_agent["return"].agg(interval_half_width))
    low = summary["mean_return"].get("random", math.nan)
    high = summary["mean_return"].reindex(FIXED).max()
    gap = high - low if high > low else math.nan
    summary.insert(2, "score", (summary["mean_return"] - low) / gap)
    summary["visited_keys"] = by_agent["visited_keys"].mean() / decisions
    summary["seconds"] = seconds.groupby("agent")["wall_seconds"].mean()
    summary["seeds"] = by_agent.size()
    summary["reference"] = summary.index.isin(REFERENCES)
    return summary.sort_values("mean_return", ascending=False, kind="stable")


def verdict(summary: pd.DataFrame) -> str:
    """What the comparison says, in a sentence or two, made from the numbers.

    A learner counts as better or worse than the best fixed span only where its interval leaves that
    span's return out.
    """
    fixed = summary[summary.index.isin(FIXED)]
    learners = summary[~summary["reference"]]
    if fixed.empty:
        return "No fixed span was evaluated."
    best, bar = str(fixed.index[0]), float(fixed["mean_return"].iloc[0])
    if learners.empty:
        return f"The best fixed span is {best}; no learner was compared."
    sides: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for label, row in learners.iterrows():
        distance = row["mean_return"] - bar
        if not abs(distance) > row["interval"]:
            side = "undecided"
        else:
            side = "better" if distance > 0 else "worse"
        sides[side].append(str(label))
    said = [
        f"{_list(sides['better'])} better than the best fixed span ({best})",
        f"{_list(sides['worse'])} worse than it" if sides["better"] else
        f"{_list(sides['worse'])} worse than the best fixed span ({best})",
        f"for {', '.join(sides['undecided'])} the seeds are too few to tell from {best}",
    ]
    kept = [text for text, side in zip(said, sides.values(), strict=True) if side]
    sentence = "; ".join(kept)
    if not sides["better"]:
        sentence += ": no learner beats a policy that learns nothing"
    return sentence[0].upper() + sentence[1:] + "."


def _list(labels: list[str]) -> str:
    if len(labels) == 1:
        return f"{labels[0]} is"
    return f"{', '.join(labels[:-1])} and {labels[-1]} are" if labels else ""
