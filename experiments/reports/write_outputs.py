"""Writes the outputs of a run: ``summary.json``, ``evaluation.csv``, figures and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spangym.experiments.analysis.comparison_stats import compute_statistics
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import DEFAULT_PLOTS
from spangym.experiments.plots.save import save_figures
from spangym.experiments.reports.report import RunInfo, save_report
from spangym.experiments.reports.result_tables import headlines, wide_summary
from spangym.experiments.runner.job_files import save_json
from spangym.experiments.runner.run_dir import RunDir, json_records

FORMATS = ("png", "svg")
"""Formats of the figures beside the report."""


def load_data(
    runs: Sequence[RunDir[Any, Any]], failed: Mapping[str, str] | None = None
) -> PlotData:
    """Load the results of comparisons or one pilot, and compute their statistics."""
    results = load_results(runs, failed)
    return PlotData(results, compute_statistics(results, np.random.default_rng(0)))


def evaluation_rows(data: PlotData) -> pd.DataFrame:
    """Return the evaluation episodes of a comparison, with the columns of ``evaluation.csv``."""
    return data.results.episodes.rename(columns={"group": "agent", "seed": "training_seed"})


def make_summary(data: PlotData, study: str) -> dict[str, Any]:
    """Return the content of ``summary.json`` for the results of a study by name.

    `spangym.experiments.reports.load_summary` reads it.
    """
    statistics = data.statistics
    return {
        "study": study,
        "headlines": headlines(data),
        "groups": json_records(wide_summary(statistics.summary)),
        "differences": json_records(statistics.differences),
        "aggregates": json_records(statistics.aggregates),
        "separations": json_records(statistics.separations),
        "rank_correlations": json_records(statistics.rank_correlations),
        "by_action": json_records(statistics.by_action),
        "failed": dict(data.results.failed),
    }


def write_outputs(run: RunDir[Any, Any], failed: Mapping[str, str]) -> PlotData:
    """Write ``summary.json``, figures and report; for a comparison also ``evaluation.csv``.

    ``failed`` holds the one-line errors of failed jobs by job id. Damaged files raise a UserError.
    """
    data, study = load_data([run], failed), run.study()
    results = data.results
    if not data.is_pilot:
        run.write("evaluation.csv", evaluation_rows(data).to_csv(index=False, lineterminator="\n"))
    save_json(run.path / "summary.json", make_summary(data, study.name))
    if len(results.curves):
        save_figures(data, DEFAULT_PLOTS[results.study_type], run.path, FORMATS)
    run_info = RunInfo(study.name, study.to_toml(), run.manifest(), run.name)
    save_report(run.path / "report.html", data, run_info)
    # Another runner of an earlier study in this folder may have finished some.
    run.hide_superseded()
    return data
