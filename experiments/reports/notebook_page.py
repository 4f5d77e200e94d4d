"""A run as a notebook shows it: HTML that takes its colors from the notebook's theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from spangym.experiments.reports.report import load_templates
from spangym.experiments.reports.tables import Table


def notebook_page(
    title: str,
    facts: Mapping[str, str],
    failed: Mapping[str, str],
    headlines: Sequence[str],
    tables: Sequence[Table] | pd.DataFrame,
) -> str:
    """Return name, facts, tables and headlines of a run, and its failed jobs with their errors."""
    # The rows of pandas are escaped.
    frame = Markup(tables.to_html(index=False)) if isinstance(tables, pd.DataFrame) else ""
    return (
        load_templates()
        .get_template("notebook.html")
        .render(
            title=title,
            facts=facts,
            failed=failed,
            headlines=headlines,
            tables=() if frame else tables,
            frame=frame,
        )
    )
