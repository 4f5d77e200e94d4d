"""What has to be known to read the tables of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from spangym.experiments.analysis.differences import Difference
from spangym.experiments.analysis.results import Results
from spangym.experiments.analysis.verdict import join_words

_MOST_NAMED = 4
_FEW = 5
"""Below so many training seeds an open difference is no surprise."""


def make_remarks(
    results: Results, differences: Sequence[Difference], aggregated: Collection[str], resamples: int
) -> tuple[str, ...]:
    """The remarks, each a sentence or two.

    Args:
        results: What was compared.
        differences: As `paired_differences` makes them.
        aggregated: Labels of the agents that are in the aggregates.
        resamples: How many were drawn of each statistic over several environments.
    """
    remarks = [
        "Intervals are of 95 %, over training seeds: in one environment by Student's t, over all "
        "environments by Student's t with the standard error of a bootstrap, stratified by "
        f"environment ({resamples:,} resamples). There is none for a single training seed, for a "
        "policy that is run once, or for a share in which all runs say the same.",
        "They hold for these evaluation episodes; the returns of random and of the oracle, which "
        "make the scores, are taken as known.",
    ]
    if len(differences) > 1:
        remarks.append(
            f"{len(differences):,} differences are judged at 95 % each, without correction for "
            "their number: where there is none, 1 in 20 is still expected to show. To beat every "
            "fixed span of an environment takes being better than each, which needs no correction."
        )
    return (*remarks, *_too_few(results, differences), *_left_out(results, aggregated))


def _too_few(results: Results, differences: Sequence[Difference]) -> list[str]:
    """A sentence for each learner and number of seeds that leave something open."""
    judged: dict[tuple[str, int], list[Difference]] = {}
    for each in differences:
        judged.setdefault((each.agent, each.seeds), []).append(each)
    sentences = []
    for (learner, seeds), found in judged.items():
        unsure = [each for each in found if each.outcome == "inconclusive"]
        if not unsure or seeds >= _FEW:
            continue
        number = "1 training seed is" if seeds == 1 else f"{seeds} training seeds are"
        if len(results.environments) == 1 and len(unsure) <= _MOST_NAMED:
            others = join_words([each.baseline for each in unsure])
            sentences.append(f"{number} too few to tell {learner} from {others}.")
        else:
            sentences.append(
                f"{number} too few to settle {len(unsure)} of the {len(found)} differences of "
                f"{learner} from policies that learn nothing."
            )
    return sentences


def _left_out(results: Results, aggregated: Collection[str]) -> list[str]:
    missing = [agent for agent in results.agents if agent not in aggregated]
    if not aggregated:
        return [
            "There are no aggregates: no agent has a score in every environment, which takes "
            "random and the oracle there."
        ]
    if not missing:
        return []
    verb = "are" if len(missing) > 1 else "is"
    return [f"{join_words(missing)} {verb} not in the aggregates, without a score somewhere."]
