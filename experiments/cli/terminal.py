"""Output to the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn


def make_console(width: int = 120, quiet: bool = False) -> Console:
    """Return a console of the terminal's width, or of ``width`` where stdout is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width, quiet=quiet)


def make_progress(console: Console | None = None) -> Progress:
    """Return progress bars with the elapsed time."""
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console)
