"""What a pilot comes to: rows, statistics, figures and report, written down in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from spangym.experiments.pilot.pilot_drawing import save_pilot_figures
from spangym.experiments.pilot.pilot_folder import PilotFolder
from spangym.experiments.pilot.pilot_gathering import load_pilot_results
from spangym.experiments.pilot.pilot_report import save_pilot_report
from spangym.experiments.pilot.pilot_rows import PilotRows
from spangym.experiments.pilot.pilot_study import PilotStudy
from spangym.experiments.pilot.plan_remarks import plan_remarks
from spangym.experiments.pilot.summary import PilotSummary, summarize_pilot
from spangym.experiments.plots.panels import to_records
from spangym.experiments.reports.html import RunInfo
from spangym.experiments.runner.job_dir import json_records

FIGURES = ("error", "loss")
FORMATS = ("png", "svg")
"""Of the figures that lie beside the report."""


class Concluded(NamedTuple):
    """What a pilot comes to.

    Attributes:
        rows: What its trainings left behind.
        summary: What that says.
        stopped: Names of trainings that ended early, each with the reason.
    """

    rows: PilotRows
    summary: PilotSummary
    stopped: dict[str, str]


def conclude(folder: PilotFolder, failed: Mapping[str, str]) -> Concluded:
    """Gather the finished trainings: ``summary.json``, figures and report.

    Args:
        folder: Folder of the pilot.
        failed: Names of the trainings that are missing, each with its error.

    Raises:
        UserError: Stored rows are damaged.
    """
    study, rows = folder.study(), load_pilot_results(folder, failed)
    summary = summarize(study, rows)
    folder.save_json(
        "summary.json",
        {
            "pilot": study.name,
            "verdict": summary.verdict,
            "remarks": list(summary.remarks),
            **{
                name: json_records(getattr(summary, name))
                for name in ("errors", "costs", "differences", "laws", "agents", "by_span")
            },
            "failed": dict(rows.failed),
        },
    )
    if len(rows.curves):
        save_pilot_figures(rows, summary, FIGURES, folder.path, FORMATS)
    run_info = RunInfo(study.name, study.to_toml(), folder.manifest(), str(folder.path))
    save_pilot_report(folder.path / "report.html", rows, summary, run_info)
    stopped = {
        f"{row['variant']}, seed {row['seed']}": f"stopped: {row['stopped']}"
        for row in to_records(rows.trainings)
        if row["stopped"]
    }
    return Concluded(rows, summary, stopped)


def summarize(study: PilotStudy, rows: PilotRows) -> PilotSummary:
    """What the rows of a study say."""
    summary = summarize_pilot(rows, study.temperature_law_pairs, study.predictor_counterpart)
    return replace(summary, remarks=(*summary.remarks, *plan_remarks(study)))
