"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of an error message that suggests the names closest to an unknown one, or lists all.

    Example:
        >>> did_you_mean("refinr", ["random", "refiner"])
        "; did you mean 'refiner'?"
        >>> did_you_mean("x", ["random", "refiner"])
        '; known are: random, refiner'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return "; did you mean " + " or ".join(map(repr, near)) + "?"
    return "; known are: " + ", ".join(known)
