"""Rows of a comparison by environment and agent."""

from __future__ import annotations

import itertools

import pandas as pd

from spangym.experiments.analysis.results import Results

RANDOM = "random"
"""The baseline that has seeds, though it learns nothing."""


def by_agent(results: Results, table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """A table's rows of each environment and agent that have any, in the order of the study.

    Args:
        results: The comparison.
        table: One of its tables.
    """
    groups = dict(list(table.groupby(["environment", "agent"], observed=True)))
    keys = itertools.product(results.environments, results.agents)
    return {key: groups[key] for key in keys if key in groups}
