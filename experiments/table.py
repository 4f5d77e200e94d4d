"""The comparison as a table in the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.table import Table

COLUMNS = ("agent", "mean return", "score", "mean span", "visited keys", "seconds")


def cells(summary: pd.DataFrame) -> list[tuple[str, ...]]:
    """The table's cells as text, one row an agent.

    Args:
        summary: As `spangym.experiments.statistics.summarise` returns it.
    """
    return [
        (
            str(label),
            _with_interval(row["mean_return"], row["interval"]),
            "-" if math.isnan(row["score"]) else f"{row['score']:.2f}",
            f"{row['mean_span']:.0f}",
            f"{row['visited_keys']:,.0f}",
            f"{row['seconds']:.1f}",
        )
        for label, row in summary.iterrows()
    ]


def make_table(summary: pd.DataFrame, title: str) -> Table:
    """The table for the terminal; reference policies are dim.

    Args:
        summary: As `spangym.experiments.statistics.summarise` returns it.
        title: What stands above it.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if index else "left")
    for row, reference in zip(cells(summary), summary["reference"], strict=True):
        table.add_row(*row, style="dim" if reference else None)
    return table


def _with_interval(mean: float, half_width: float) -> str:
    return f"{mean:.3f}" if math.isnan(half_width) else f"{mean:.3f} ± {half_width:.3f}"
