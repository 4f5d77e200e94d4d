"""What an error message adds about a misspelled name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The names nearest to a misspelled one, as the end of an error message.

    Args:
        name: What the user wrote.
        known: What would have been right.

    Returns:
        ``"; did you mean ...?"``, or the list of known names where none is near.

    Example:
        >>> did_you_mean("refinr", ["random", "refiner"])
        "; did you mean 'refiner'?"
        >>> did_you_mean("x", ["random", "refiner"])
        '; known are: random, refiner'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return "; did you mean " + " or ".join(repr(each) for each in near) + "?"
    return "; known are: " + ", ".join(known)
