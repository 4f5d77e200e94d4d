"""What differences say, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from spangym.experiments.analysis.differences import Difference
from spangym.experiments.analysis.results import Results


@dataclass(frozen=True)
class _Standing:
    """How a learner stands to the fixed spans; learners that stand alike share a sentence.

    Attributes:
        environments: How many were compared in.
        beats: In how many it beats every fixed span.
        near: A fixed span that it does not differ from; empty if there is none, or if it beats
            every fixed span somewhere.
        near_in: In how many environments it does not differ from that.
        equal: Whether it equals that in all of these, up to rounding.
        worse: In how many it is worse than the best fixed span.
        best: The best fixed span, if there is a single environment.
    """

    environments: int
    beats: int
    near: str
    near_in: int
    equal: bool
    worse: int
    best: str

    def say(self, who: Sequence[str]) -> str:
        """A sentence about those who stand like this."""
        many = len(who) > 1
        clauses = []
        if self.beats:
            clauses.append((f"{'beat' if many else 'beats'} every fixed span", self.beats))
        if self.near:
            verb = ("equal" if many else "equals") if self.equal else "cannot be told from"
            clauses.append((f"{verb} {self.near}", self.near_in))
        if self.worse:
            name = f", {self.best}" if self.best else ""
            verb = "are" if many else "is"
            clauses.append((f"{verb} worse than the best fixed span{name}", self.worse))
        said = [text + self._places(count, text is clauses[0][0]) for text, count in clauses]
        return f"{join_words(who)} {join_words(said)}."

    def _places(self, count: int, first: bool) -> str:
        if self.environments == 1:
            return ""
        if not first:
            return f" on all {count}" if count == self.environments else f" on {count}"
        number = f"all {count}" if count == self.environments else f"{count} of {self.environments}"
        return f" on {number} environments"


def make_verdict(results: Results, differences: Sequence[Difference]) -> str:
    """How each learner stands to the fixed spans, a sentence for those that stand alike.

    To beat every fixed span of an environment, a learner has to be better than each of them. One
    that does so nowhere is set beside the fixed span that it does not differ from in most
    environments, of several the nearest in return. That is not to say that the two are equal.

    Args:
        results: What was compared.
        differences: As `paired_differences` makes them.
    """
    fixed = results.fixed_span_agents
    if not results.learners:
        return "No learner was compared."
    if not fixed:
        return "No fixed span was evaluated: there is nothing to compare with."
    alike: dict[_Standing, list[str]] = {}
    unknown = []
    for learner in results.learners:
        own = [each for each in differences if each.agent == learner and each.baseline in fixed]
        if own:
            alike.setdefault(_standing(own, len(results.environments)), []).append(learner)
        else:
            unknown.append(learner)
    ordered = sorted(alike, key=lambda standing: -standing.beats)
    sentences = [standing.say(alike[standing]) for standing in ordered]
    if unknown:
        verb = "have" if len(unknown) > 1 else "has"
        sentences.append(f"{join_words(unknown)} {verb} no trial to compare with a fixed span.")
    return " ".join(sentences)


def join_words(words: Sequence[str]) -> str:
    """Words with commas and an "and".

    Example:
        >>> join_words(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _standing(differences: Sequence[Difference], environments: int) -> _Standing:
    """Of a learner, from its differences from fixed spans; at least one."""
    by_environment: dict[str, list[Difference]] = {}
    for each in differences:
        by_environment.setdefault(each.environment, []).append(each)
    from_best = [min(each, key=lambda one: one.difference) for each in by_environment.values()]
    beats = sum(all(one.outcome == "better" for one in each) for each in by_environment.values())
    near = [] if beats else _nearest(differences)
    return _Standing(
        environments=environments,
        beats=beats,
        near=near[0].baseline if near else "",
        near_in=len(near),
        equal=all(each.outcome == "equal" for each in near),
        worse=sum(each.outcome == "worse" for each in from_best),
        best=from_best[0].baseline if environments == 1 else "",
    )


def _nearest(differences: Sequence[Difference]) -> list[Difference]:
    """Those from the fixed span that is not told apart most often, of several the nearest."""
    by_span: dict[str, list[Difference]] = {}
    for each in differences:
        if each.outcome in ("equal", "inconclusive"):
            by_span.setdefault(each.baseline, []).append(each)

    def distance(span: list[Difference]) -> float:
        return statistics.fmean(abs(each.difference) for each in span)

    return min(by_span.values(), key=lambda span: (-len(span), distance(span)), default=[])
