"""Temperature laws: variants that differ in nothing else, seed by seed."""

from __future__ import annotations

import itertools

from spangym.experiments.pilot.figures.results import PilotResults
from spangym.experiments.plots.estimates import Estimate, estimate_panel
from spangym.experiments.plots.panels import NothingToDraw, Panel, records


def law_panels(results: PilotResults) -> list[Panel]:
    """A panel for each pair of variants: a row for each split."""
    measure, table = results.measure, records(results.summary.laws)
    panels = []
    for (variant, other), rows in itertools.groupby(
        table, key=lambda row: (row["variant"], row["other"])
    ):
        estimates = [
            Estimate(
                measure.of([row["split"]]),
                results.look(variant),
                *(measure.scale * row[name] for name in ("difference", "low", "high")),
                settled=row["verdict"] != "open",
            )
            for row in rows
        ]
        unit = measure.unit_of_differences
        title = f"{variant} minus {other}"
        panels.append(estimate_panel(title, estimates, f"{unit}; left: the first is better", 0.0))
    if not panels:
        raise NothingToDraw("no two variants that differ in their temperature law share a seed")
    return panels
