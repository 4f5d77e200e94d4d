"""What the rows of a run say: one line an agent, with intervals over training seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .studies import FIXED, REFERENCES

CONFIDENCE = 0.95
_ROUNDING = 1e-6
"""Returns are sums of float32 rewards."""


@dataclass(frozen=True)
class AgentSummary:
    """How an agent fared in evaluation; means over training seeds.

    Attributes:
        label: The agent's label.
        mean_return: Return an episode.
        interval: Half of the 95 % interval of the mean return; None for a single seed.
        score: 0 for random, 1 for the oracle; None where these are missing or equal.
        mean_span: Span of a decision, in tokens.
        visited_keys: Query-key pairs scored in a decision.
        seconds: Wall time of a trial.
        seeds: Training seeds.
    """

    label: str
    mean_return: float
    interval: float | None
    score: float | None
    mean_span: float
    visited_keys: float
    seconds: float
    seeds: int

    @property
    def is_reference(self) -> bool:
        """Whether it is a policy that learns nothing."""
        return self.label in REFERENCES


def half_width(values: NDArray[np.float64]) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t over the values.

    The values must be independent: one for each training seed. With three of them the interval is
    wide (4.3 standard errors); that is what three seeds can say.

    Args:
        values: One mean return a training seed.

    Returns:
        The half width; None for a single value.

    Example:
        >>> round(half_width(np.array([1.0, 2.0, 3.0])), 3)
        2.484
    """
    count = len(values)
    if count < 2:
        return None
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return quantile * float(values.std(ddof=1)) / math.sqrt(count)


def summarise(
    evaluation: pd.DataFrame, seconds: Mapping[str, float], decisions: int
) -> list[AgentSummary]:
    """How each agent fared, the highest mean return first.

    The unit of replication is the training seed: episodes are averaged within it first. Scores are
    set by references that no compared agent changes.

    Args:
        evaluation: Rows of ``evaluation.csv``.
        seconds: Mean wall time of a trial, by the agent's label.
        decisions: Decisions in an episode.
    """
    columns = ["return", "mean_span", "visited_keys"]
    by_seed = pd.DataFrame(
        evaluation.groupby(["agent", "training_seed"], sort=False)[columns].mean()
    )
    means: dict[str, NDArray[np.float64]] = {
        str(label): rows.to_numpy(float) for label, rows in by_seed.groupby(level=0, sort=False)
    }
    returns = {label: float(rows[:, 0].mean()) for label, rows in means.items()}
    summaries = [
        AgentSummary(
            label=label,
            mean_return=returns[label],
            interval=half_width(rows[:, 0]),
            score=_score(returns[label], returns),
            mean_span=float(rows[:, 1].mean()),
            visited_keys=float(rows[:, 2].mean()) / decisions,
            seconds=seconds[label],
            seeds=len(rows),
        )
        for label, rows in means.items()
    ]
    return sorted(summaries, key=lambda each: each.mean_return, reverse=True)


def _score(value: float, returns: Mapping[str, float]) -> float | None:
    worst, best = returns.get("random"), returns.get("oracle")
    if worst is None or best is None or best <= worst:
        return None
    return (value - worst) / (best - worst)


def verdict(summaries: Sequence[AgentSummary]) -> str:
    """What the comparison says, in a few sentences made from the numbers.

    A learner counts as better or worse than the best fixed span only where its interval leaves that
    span's return out, and as equal where the two differ by rounding only.

    Args:
        summaries: As `summarise` returns them.
    """
    bar = next((each for each in summaries if each.label in FIXED), None)
    if bar is None:
        return "No fixed span was evaluated: there is nothing to compare with."
    learners = [each for each in summaries if not each.is_reference]
    if not learners:
        return f"The best fixed span is {bar.label}; no learner was compared."
    better, equal, worse, open_ = [], [], [], []
    for each in learners:
        distance = each.mean_return - bar.mean_return
        if math.isclose(each.mean_return, bar.mean_return, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            equal.append(each.label)
        elif each.interval is None or abs(distance) <= each.interval:
            open_.append(each.label)
        else:
            (better if distance > 0 else worse).append(each.label)
    who = (
        f"{_list(better)} {'beats' if len(better) == 1 else 'beat'}"
        if better
        else "No learner beats"
    )
    sentences = [f"{who} the best fixed span, {bar.label}."]
    if equal:
        sentences.append(f"{_list(equal)} {'equals' if len(equal) == 1 else 'equal'} it.")
    if worse:
        sentences.append(f"{_list(worse)} {'is' if len(worse) == 1 else 'are'} worse than it.")
    if open_:
        sentences.append(f"For {_list(open_)} the seeds are too few to tell.")
    return " ".join(sentences)


def _list(labels: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
