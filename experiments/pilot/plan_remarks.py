"""What of a study has to be known to read its tables."""

from __future__ import annotations

import torch

from spangym.attention.temperature import TemperatureLaw, temperature
from spangym.experiments.pilot.pilot_study import CONTROLLABLE_ATTENTION, PilotStudy


def plan_remarks(study: PilotStudy) -> tuple[str, ...]:
    """The remarks, each a sentence or two."""
    kinds = {each.attention for each in study.variants}
    said = []
    if kinds - {"standard", "original"}:
        passes = study.model.num_refinement_steps
        said.append(
            f"Local paths take {passes} pass{'es' if passes > 1 else ''} of focus"
            + (", those of the original up to 10." if "original" in kinds else ".")
        )
    if kinds.intersection(CONTROLLABLE_ATTENTION) and study.random_span_fraction:
        said.append(
            f"{study.random_span_fraction:.0%} of the updates of focus and integrated layers are at random spans."
        )
    if len(set(study.temperature_law_pairs.values())) > 1:
        longer, shorter = (
            _temperatures(law, study.model.temp_scale) for law in ("longer", "shorter")
        )
        said.append(
            f"The temperature goes from {longer} over the span scale where scores are sharper for "
            f"longer spans, from {shorter} where they are sharper for shorter ones."
        )
    if study.task == "text" and "original" in kinds:
        said.append(
            "The original layer reads its span off the chunk that it predicts, and in training off "
            "its neighbors: its bits a byte know a little of the future, those of the others do "
            "not."
        )
    said.append(
        "Milliseconds were measured while other trainings ran beside; `spangym bench pilot` "
        "measures ratios side by side."
    )
    return tuple(said)


def _temperatures(temperature_law: TemperatureLaw, strength: float) -> str:
    first, last = temperature(torch.tensor([0.0, 1.0]), temperature_law, strength).tolist()
    return f"{first:.3g} to {last:.3g}"
