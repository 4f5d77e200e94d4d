"""Temperature laws: variants that differ in nothing else, seed by seed."""

from __future__ import annotations

import itertools

from spangym.experiments.pilot.figures.results import PilotResults
from spangym.experiments.plots.estimates import Estimate, plot_estimates
from spangym.experiments.plots.panels import NoData, Panel, to_records


def plot_law(results: PilotResults) -> list[Panel]:
    """A panel for each pair of variants: a row for each split."""
    metric, table = results.metric, to_records(results.summary.laws)
    panels = []
    for (variant, other), rows in itertools.groupby(
        table, key=lambda row: (row["variant"], row["other"])
    ):
        estimates = [
            Estimate(
                metric.of([row["split"]]),
                results.line_style(variant),
                *(metric.scale * row[name] for name in ("difference", "low", "high")),
                settled=row["outcome"] != "inconclusive",
            )
            for row in rows
        ]
        unit = metric.difference_unit
        title = f"{variant} minus {other}"
        panels.append(plot_estimates(title, estimates, f"{unit}; left: the first is better", 0.0))
    if not panels:
        raise NoData("no two variants that differ in their temperature law share a seed")
    return panels
