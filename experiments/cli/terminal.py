"""Output to the terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeElapsedColumn
from rich.text import Text

from spangym.utils.streams import in_notebook
from spangym.utils.text import printable

_WIDEST_NAME = 28
"""Columns of a list's names; the text of a longer one begins on the next line."""


def echo(text: object, *, error: bool = False) -> None:
    """Print a line to stdout or stderr; what cannot be seen in it is escaped."""
    print(printable(text), file=sys.stderr if error else sys.stdout)


def make_console(width: int = 120, quiet: bool = False) -> Console:
    """Return a console of the terminal's width, or of ``width`` where stdout is no terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty() and not in_notebook()
    # Names of agents such as my_agents:Child would become pictures.
    # A notebook shows plain text in its own font, and says that it is a terminal.
    return Console(
        width=None if is_terminal else width,
        quiet=quiet,
        emoji=False,
        force_jupyter=False,
        force_terminal=False if in_notebook() else None,
    )


def make_progress(console: Console | None = None) -> Progress:
    """Return progress bars with the elapsed time."""
    return Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console)


def print_lists(console: Console, lists: Mapping[str, Sequence[tuple[Text, Text]]]) -> None:
    """Print lists of names with texts, by heading; the texts of all lists are aligned."""
    widths = [name.cell_len for rows in lists.values() for name, _ in rows]
    indent = 4 + max((each for each in widths if each <= _WIDEST_NAME), default=_WIDEST_NAME)
    for number, (heading, rows) in enumerate(lists.items()):
        console.print(Text("\n" * (number > 0) + f"{heading}:", "bold"))
        for name, text in rows:
            start = Text.assemble("  ", name)
            if name.cell_len > indent - 4:
                console.print(start)
                start = Text()
            for line in text.wrap(console, max(console.width - indent, 20)) or [Text()]:
                line.rstrip()
                start.pad_right(indent - start.cell_len)
                console.print(start + line)
                start = Text()


def completion_help(text: str) -> str:
    """Shorten a text to one line and escape it: Typer would wrap it, and read it as markup."""
    return escape(textwrap.shorten(text, 60, placeholder="..."))
