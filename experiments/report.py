"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from typing import Any

import jinja2

from .run_folder import RunFolder
from .statistics import AgentSummary
from .studies import Study
from .table import COLUMNS, cells


def write_report(
    folder: RunFolder,
    study: Study,
    summaries: list[AgentSummary],
    verdict: str,
    notes: list[str],
) -> None:
    """Write ``report.html`` beside the figures it shows.

    Args:
        folder: Folder of the run, its figures drawn.
        study: What was run.
        summaries: One an agent, in the order of the rows.
        verdict: What the comparison says, in a few sentences.
        notes: What has to be known to read the table, and trials that failed.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("spangym.experiments", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    manifest: dict[str, Any] = folder.manifest()
    html = templates.get_template("report.html").render(
        study=study,
        columns=COLUMNS,
        rows=[(cells(each), each.is_reference) for each in summaries],
        verdict=verdict,
        notes=notes,
        manifest=manifest,
        study_toml=study.to_toml(),
        # Only the <svg> element: an XML declaration has no place within HTML.
        figure=(folder.path / "reward_curves.svg").read_text("utf-8").partition("<svg")[2],
    )
    folder.write("report.html", html)
