"""Temperature laws: variants that differ in nothing else, seed by seed."""

from __future__ import annotations

import itertools

from spangym.experiments.plots.estimates import Estimate, plot_estimates
from spangym.experiments.plots.panels import NoData, Panel, to_records
from spangym.experiments.plots.plot_data import PlotData


def plot_law(results: PlotData) -> list[Panel]:
    """A panel for each pair of variants: a row for each split."""
    metric, table = results.metric, results.statistics.differences
    table = to_records(table[table["pairing"] == "temperature law"])
    panels = []
    for (variant, other), rows in itertools.groupby(
        table, key=lambda row: (row["group"], row["baseline"])
    ):
        estimates = [
            Estimate(
                results.split_label(row["split"]),
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
