"""Variants of a plan that differ in one thing alone."""

from __future__ import annotations

from dataclasses import replace

from .plans import Plan, VariantEntry

_LAWS = {True: "sharper for longer spans", False: "sharper for shorter spans"}


def temperature_laws(plan: Plan) -> dict[str, str]:
    """Laws by label, of the first variants that differ in nothing else; none if there are none."""
    alike: dict[str, list[VariantEntry]] = {}
    for each in plan.variants:
        alike.setdefault(repr(replace(each, label="", sharpen=True)), []).append(each)
    for variants in alike.values():
        if len({each.sharpen for each in variants}) > 1:
            return {each.label: _LAWS[each.sharpen] for each in variants}
    return {}


def predictors_alone(plan: Plan) -> dict[str, str]:
    """Variants whose spans an agent decides, each with the same layer whose predictor does."""
    alone = {
        repr(replace(each, label="")): each.label for each in plan.variants if each.agent is None
    }
    pairs = {}
    for each in plan.variants:
        if each.agent is not None:
            # What an agent learns from is nothing to a layer without.
            layer = VariantEntry("", each.attention, each.heads, each.sharpen, each.soft_span)
            label = alone.get(repr(layer))
            if label is not None:
                pairs[each.label] = label
    return pairs
