"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 20
"""Names listed in an error message; of more, the rest are counted."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of an error message that suggests the names closest to an unknown one, or lists all.

    Upper and lower case, ``-`` and ``_`` make no difference.

    Example:
        >>> did_you_mean("Refinr", ["random", "refiner"])
        "; did you mean 'refiner'?"
        >>> did_you_mean("x", ["random", "refiner"])
        '; choose from: random, refiner'
        >>> did_you_mean("a.x", ["a.xy", "a.xy"])
        "; did you mean 'a.xy'?"
    """
    known = sorted({*known})
    if near := closest(name, known):
        return "; did you mean " + " or ".join(map(repr, near)) + "?"
    return f"; choose from: {', '.join(known[:_MOST_LISTED])}" + (
        f" and {len(known) - _MOST_LISTED} others" if len(known) > _MOST_LISTED else ""
    )


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Return the names closest to an unknown one, at most three, the best first.

    Example:
        >>> closest("SPARSITY", ["quickstart", "sparsity", "suite"])
        ['sparsity']
        >>> closest("timesteps", ["seeds", "total_timesteps"])
        ['total_timesteps']
    """
    plain: dict[str, list[str]] = {}
    for each in dict.fromkeys(known):
        plain.setdefault(_plain(each), []).append(each)
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted][:3]
    near = difflib.get_close_matches(wanted, plain, n=3)
    # Next to a near miss, names that are further away only distract.
    near = [each for each in near if _ratio(each, wanted) > _ratio(near[0], wanted) - 0.1]
    if not near and len(wanted) > 2:
        near = [each for each in plain if wanted in each]
    return [original for each in near for original in plain[each]][:3]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
