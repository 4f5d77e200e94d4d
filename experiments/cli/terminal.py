"""Output to the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from spangym.utils.text import printable


def echo(text: object, *, error: bool = False) -> None:
    """Print a line to stdout or stderr; what cannot be seen in it is escaped."""
    print(printable(text), file=sys.stderr if error else sys.stdout)


def make_console(width: int = 120, quiet: bool = False) -> Console:
    """Return a console of the terminal's width, or of ``width`` where stdout is no terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    # Names of agents such as my_agents:Child would become pictures.
    return Console(width=None if is_terminal else width, quiet=quiet, emoji=False)


def make_progress(console: Console | None = None) -> Progress:
    """Return progress bars with the elapsed time."""
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console)
