"""Text for tables, figures and file names."""

from __future__ import annotations

import re

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def collapse_whitespace(text: str) -> str:
    """Replace line breaks and runs of white space by single spaces."""
    return " ".join(text.split())


def slug(name: str) -> str:
    """Replace all characters that are unsafe in a file name.

    Example:
        >>> slug("fixed:3")
        'fixed-3'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)
