"""Parts of generated Markdown pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

_SECTION = re.compile(
    r"^(Args|Attributes|Example|Examples|Note|Raises|Returns|Yields):\n((?:(?: .*)?\n)*)", re.M
)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown of one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines) + "\n"


def options_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of options: on a phone, cells of a row stand below each other."""
    return f":::{{container}} options\n{table(header, rows)}:::\n"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: object) -> str:
    """Text as code; nothing if there is none."""
    return f"`{text}`" if str(text) else ""


def prose(docstring: str) -> str:
    """Text of a docstring as Markdown: names of the API in single backticks become links."""

    def link(match: re.Match[str]) -> str:
        is_name = re.fullmatch(r"spangym(\.\w+)+|[A-Z]\w+", match[1])
        return f"{{py:obj}}`{match[1]}`" if is_name else match[0]

    return re.sub(r"(?<!`)`([^`]+)`(?!`)", link, docstring).strip()


def parse_docstring(documented: Any) -> tuple[str, dict[str, dict[str, str]]]:
    """Text of a Google-style docstring before its sections, and sections of names.

    Returns:
        The text as Markdown, and for ``Args`` and ``Attributes`` the texts by name.
    """
    docstring = inspect.cleandoc(documented.__doc__ or "") + "\n"
    sections: dict[str, dict[str, str]] = {}
    for section in _SECTION.finditer(docstring):
        # An entry starts at the section's own indent, and its other lines are indented further.
        entries = re.findall(r"^    (\w+)[^:\n]*:((?:.*\n)(?: {5,}.*\n|\n)*)", section[2], re.M)
        sections[section[1]] = {name: prose(" ".join(text.split())) for name, text in entries}
    return prose(_SECTION.sub("", docstring)), sections
