"""Rows of a comparison by environment and agent."""

from __future__ import annotations

import itertools

import pandas as pd

from spangym.experiments.analysis.results import Rows

RANDOM = "random"
"""The reference that has seeds, though it learns nothing."""


def by_agent(rows: Rows, table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """A table's rows of each environment and agent that have any, in the order of the study.

    Args:
        rows: The comparison.
        table: One of its tables.
    """
    groups = dict(list(table.groupby(["environment", "agent"], observed=True)))
    keys = itertools.product(rows.environments, rows.agents)
    return {key: groups[key] for key in keys if key in groups}
