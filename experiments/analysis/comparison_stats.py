"""What the rows of a comparison say: differences, aggregates, intervals, and a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import pandas as pd

from spangym.experiments.analysis import aggregates
from spangym.experiments.analysis.differences import Difference, paired_differences
from spangym.experiments.analysis.intervals import (
    RESAMPLES,
    Floats,
    Strata,
    bootstrap_ci,
    bootstrap_ci_proportion,
)
from spangym.experiments.analysis.remarks import make_remarks
from spangym.experiments.analysis.results import Results
from spangym.experiments.analysis.row_groups import by_agent
from spangym.experiments.analysis.summaries import per_agent_summary
from spangym.experiments.analysis.verdict import make_verdict

BEST_FIXED = "best fixed"
"""Stands for the fixed span of the highest return, of each environment its own."""

THRESHOLDS = np.linspace(0, 1, 101)
"""Scores between random and the oracle, whatever agents are compared."""

_STATISTICS = {
    "iqm": aggregates.interquartile_mean,
    "median": aggregates.median,
    "mean": aggregates.mean,
    "optimality gap": aggregates.optimality_gap,
}
_DIFFERENCES = [each.name for each in fields(Difference)]


@dataclass(frozen=True)
class ComparisonStats:
    """What the rows of a comparison say; ``low`` and ``high`` are a 95 % interval's bounds.

    The unit of replication is the training seed: episodes are averaged within it first. Bounds
    are NaN where seeds cannot say how far they spread: with a single one, so for policies that are
    run once; and, for probabilities and shares, where all runs say the same.

    Attributes:
        summaries: A row for each environment and agent, the best return of each environment first:
            ``environment``, ``agent``, ``return``, ``low``, ``high``, ``score``, ``score_low``,
            ``score_high``, ``regret``, ``mean_span``, ``qk_pairs``, ``full_qk_pairs``,
            ``seconds``, ``steps``, ``seeds`` (how many), ``area`` (mean return over the training,
            i.e. the area under its curve over its steps; NaN without training) and
            ``efficiency`` (steps until the smoothed curve first reaches 95 % of the way from
            random's return to the agent's own final level; the median over seeds, in which one
            that does not end above random is later than all; NaN without training or if never).
        aggregates: Over all environments, a row for each agent and statistic: ``agent``,
            ``statistic`` (``iqm``, ``median``, ``mean``, ``optimality gap``), ``estimate``,
            ``low``, ``high``. Agents that lack an environment, or a score in it, are left out.
        differences: Paired differences of returns, a row for each environment, learner and
            baseline: ``environment``, ``agent``, ``baseline``, ``difference``, ``low``,
            ``high``, ``seeds``, ``outcome`` (``better`` or ``worse`` where the interval leaves
            0 out, ``equal`` up to rounding, else ``inconclusive``).
        probability_of_improvement: Probability that a run of an agent returns more than one of
            another, over all environments, a row for each pair of learners, and of a learner with
            the best fixed span of each environment (``best fixed``): ``agent``, ``other``,
            ``probability``, ``low``, ``high``. Agents that lack an environment are left out.
        profiles: Share of runs, over all environments, that score above a threshold: ``agent``,
            ``threshold``, ``share``, ``low``, ``high``; learners, and ``best fixed``.
        verdict: What the comparison says, in a sentence or two made from the numbers.
        remarks: What has to be known to read the tables, a sentence each: where seeds are too few
            to tell among others.
    """

    summaries: pd.DataFrame
    aggregates: pd.DataFrame
    differences: pd.DataFrame
    probability_of_improvement: pd.DataFrame
    profiles: pd.DataFrame
    verdict: str
    remarks: tuple[str, ...]


def compute_statistics(
    results: Results, generator: np.random.Generator, resamples: int = RESAMPLES
) -> ComparisonStats:
    """Make all statistics of a comparison.

    Args:
        results: What its trials left behind.
        generator: Draws the resamples; the same state gives the same statistics.
        resamples: How many there are of each statistic over several environments.
    """
    summaries = per_agent_summary(results)
    best = _best_fixed(results, summaries)
    scores = _strata(results, "score", best)
    differences = paired_differences(results)
    over_all = _aggregates(results, scores, generator, resamples)
    return ComparisonStats(
        summaries=summaries,
        aggregates=over_all,
        differences=pd.DataFrame(differences, columns=_DIFFERENCES),
        probability_of_improvement=_probability_of_improvement(
            results, _strata(results, "return", best), generator, resamples
        ),
        profiles=_profiles(results, scores, generator, resamples),
        verdict=make_verdict(results, differences),
        remarks=make_remarks(results, differences, set(over_all["agent"]), resamples),
    )


def _best_fixed(results: Results, summaries: pd.DataFrame) -> dict[str, str]:
    """The fixed span of the highest return, by environment."""
    fixed = summaries[summaries["agent"].isin(results.fixed_span_agents)]
    # The first of an environment is its best; what comes last stays.
    return dict(zip(fixed["environment"][::-1], fixed["agent"][::-1], strict=True))


def _strata(results: Results, column: str, best: Mapping[str, str]) -> dict[str, Strata]:
    """Values by environment, of those agents that have one in every trial of each environment."""
    trials = by_agent(results, results.trials)
    names = {agent: dict.fromkeys(results.environments, agent) for agent in results.agents}
    strata = {}
    for agent, labels in (names | {BEST_FIXED: dict(best)}).items():
        keys = [(environment, labels.get(environment, "")) for environment in results.environments]
        values = [trials[key][column].to_numpy(float) for key in keys if key in trials]
        if len(values) == len(keys) > 0 and all(np.isfinite(each).all() for each in values):
            strata[agent] = values
    return strata


def _aggregates(
    results: Results, scores: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    table = [
        (agent, name, float(statistic(scores[agent])), *map(float, bounds))
        for agent in results.agents
        if agent in scores
        for name, statistic in _STATISTICS.items()
        for bounds in [bootstrap_ci(statistic, scores[agent], generator, resamples)]
    ]
    return pd.DataFrame(table, columns=["agent", "statistic", "estimate", "low", "high"])


def _probability_of_improvement(
    results: Results, returns: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    pairs = [
        *itertools.combinations(results.learners, 2),
        *((learner, BEST_FIXED) for learner in results.learners),
    ]
    table = []
    for agent, other in pairs:
        if agent not in returns or other not in returns:
            continue
        if other == BEST_FIXED:
            # It has no seeds that could be drawn anew.
            drawn = returns[agent]
            statistic = partial(aggregates.probability_of_improvement, second=returns[other])
        else:
            drawn = [*returns[agent], *returns[other]]
            statistic = _first_half_over_second
        bounds = bootstrap_ci_proportion(statistic, drawn, generator, resamples)
        table.append((agent, other, float(statistic(drawn)), *map(float, bounds)))
    return pd.DataFrame(table, columns=["agent", "other", "probability", "low", "high"])


def _first_half_over_second(strata: Strata) -> Floats:
    half = len(strata) // 2
    return aggregates.probability_of_improvement(strata[:half], strata[half:])


def _profiles(
    results: Results, scores: Mapping[str, Strata], generator: np.random.Generator, resamples: int
) -> pd.DataFrame:
    columns = ["agent", "threshold", "share", "low", "high"]
    table = []
    for agent in (*results.learners, BEST_FIXED):
        if agent in scores:
            above = aggregates.runs_above(scores[agent], THRESHOLDS)
            share = aggregates.mean(above)
            bounds = bootstrap_ci_proportion(aggregates.mean, above, generator, resamples)
            table += [(agent, *row) for row in zip(THRESHOLDS, share, *bounds, strict=True)]
    return pd.DataFrame(table, columns=columns)
