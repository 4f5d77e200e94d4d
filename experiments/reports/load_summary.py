"""Reads the statistics of a run back from its ``summary.json``, without the files of its jobs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spangym.experiments.analysis.comparison_stats import (
    ComparisonStats,
    MeanCI,
    best_fixed_spans,
)
from spangym.experiments.analysis.results import (
    ALL_SPLITS,
    COMPARISON_METRICS,
    CURVE_COLUMNS,
    EVALUATED,
    PILOT_METRICS,
    VALUE_COLUMNS,
    Results,
)
from spangym.experiments.analysis.separation import RANKING_COLUMNS, SEPARATION_COLUMNS
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.runner.run_dir import run_command
from spangym.experiments.studies.study import is_baseline
from spangym.utils.errors import UserError
from spangym.utils.serialization import parse_json

_SUMMARY_COLUMNS = ("environment", "group", "split", "metric", *MeanCI._fields)


def load_summary(folder: Path) -> PlotData:
    """Load what tables and headlines show; there are no curves, episodes and profiles.

    Args:
        folder: Folder with ``summary.json`` and ``study.toml``, as under ``experiments/results``.

    Raises:
        UserError: A file is missing or is not one of a run.
    """
    path = folder / "summary.json"
    try:
        stored = parse_json(path.read_text("utf-8"))
        study = tomllib.loads((folder / "study.toml").read_text("utf-8"))
        return _load(stored, study, is_pilot=run_command(folder) == "pilot")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(path)!r} is no summary of a run: {error}") from error


def _load(stored: Mapping[str, Any], study: Mapping[str, Any], *, is_pilot: bool) -> PlotData:
    rows = stored["groups"]
    metrics = PILOT_METRICS[study["task"]] if is_pilot else COMPARISON_METRICS
    primary = "error" if is_pilot else "return"
    summary = pd.DataFrame(
        [
            (row["environment"], row["group"], split, metric, *_mean_ci(row, metric))
            for row in rows
            for metric in metrics
            # Costs of a pilot belong to all splits and are in the row of each.
            for split in [ALL_SPLITS if is_pilot and metric not in EVALUATED else row["split"]]
            if row.get(f"{metric}_n") is not None
        ],
        columns=[*_SUMMARY_COLUMNS],
    ).drop_duplicates([*_SUMMARY_COLUMNS[:4]])
    finished = [
        (row["environment"], row["group"], seed, row["split"], primary, np.nan)
        for row in rows
        for seed in range(int(row[f"{primary}_n"] or 0))
    ]
    groups = [*dict.fromkeys(row["group"] for row in rows)]
    results = Results(
        study_type="pilot" if is_pilot else "comparison",
        environments=tuple(dict.fromkeys(row["environment"] for row in rows)),
        groups=tuple(groups),
        baselines=tuple(groups[:1] if is_pilot else filter(is_baseline, groups)),
        splits=tuple(dict.fromkeys(row["split"] for row in rows if row["split"] != ALL_SPLITS)),
        metrics=metrics,
        primary=primary,
        values=pd.DataFrame(finished, columns=[*VALUE_COLUMNS]),
        curves=pd.DataFrame(columns=[*CURVE_COLUMNS]),
        failed=tuple(stored["failed"].items()),
    )
    statistics = ComparisonStats(
        summary=summary,
        differences=_table(
            stored["differences"],
            ("pairing", "environment", "group", "baseline", "split", "outcome"),
            ("difference", "low", "high", "n"),
        ),
        by_action=_table(
            stored["by_action"],
            ("environment", "group", "split", "metric"),
            ("action", "mean", "low", "high", "n"),
        ),
        aggregates=_table(
            stored["aggregates"], ("group", "statistic"), ("estimate", "low", "high")
        ),
        probability_of_improvement=pd.DataFrame(),
        profiles=pd.DataFrame(),
        separations=_table(stored["separations"], SEPARATION_COLUMNS[:3], SEPARATION_COLUMNS[3:]),
        rank_correlations=_table(
            stored["rank_correlations"], RANKING_COLUMNS[:2], RANKING_COLUMNS[2:]
        ),
        best_fixed=best_fixed_spans(results, summary),
    )
    return PlotData(results, statistics)


def _mean_ci(row: Mapping[str, Any], metric: str) -> MeanCI:
    mean, low, high = (
        np.nan if row[key] is None else float(row[key])
        for key in (metric, f"{metric}_low", f"{metric}_high")
    )
    return MeanCI(mean, low, high, int(row[f"{metric}_n"]))


def _table(
    rows: Sequence[Mapping[str, Any]], text: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """Make a table of columns of text and numbers, with NaN for None."""
    table = pd.DataFrame(rows, columns=[*text, *numbers])
    dtypes = {each: int if each in ("n", "action") else float for each in numbers}
    return table.astype(dtypes)
