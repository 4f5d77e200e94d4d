"""A run as a notebook shows it: HTML that takes its colors from the notebook's theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spangym.experiments.reports.report import load_templates
from spangym.experiments.reports.tables import Table


def notebook_page(
    title: str,
    facts: Mapping[str, str],
    failed: Mapping[str, str],
    headlines: Sequence[str],
    tables: Sequence[Table],
) -> str:
    """Return name, facts, tables and headlines of a run, and its failed jobs with their errors."""
    template = load_templates().get_template("notebook.html")
    return template.render(
        title=title, facts=facts, failed=failed, headlines=headlines, tables=tables
    )
