"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from typing import Any

import jinja2
import pandas as pd

from .run_folder import RunFolder
from .studies import Study
from .table import COLUMNS, cells


def write_report(
    folder: RunFolder, study: Study, summary: pd.DataFrame, verdict: str, notes: list[str]
) -> None:
    """Write ``report.html`` beside the figures it shows.

    Args:
        folder: Folder of the run, its figures drawn.
        study: What was run.
        summary: One row an agent.
        verdict: What the comparison says, in a sentence.
        notes: What has to be known to read the table, and trials that failed.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest: dict[str, Any] = folder.manifest()
    html = templates.get_template("report.html").render(
        study=study,
        columns=COLUMNS,
        rows=list(zip(cells(summary), summary["reference"], strict=True)),
        verdict=verdict,
        notes=notes,
        manifest=manifest,
        study_toml=study.to_toml(),
        # Only the <svg> element: an XML declaration has no place within HTML.
        figure=(folder.path / "reward_curves.svg").read_text("utf-8").partition("<svg")[2],
    )
    folder.write("report.html", html)
