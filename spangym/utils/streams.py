"""Standard streams that print every text."""

from __future__ import annotations

import codecs
import io
import sys

from spangym.utils.text import DASH, MINUS

_SIMILAR = str.maketrans({MINUS: "-", DASH: "-", "±": "+-", "…": "..."})


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError):
        similar = error.object[error.start : error.end].translate(_SIMILAR)
        if similar.isascii():
            return similar, error.end
    return codecs.backslashreplace_errors(error)


codecs.register_error("spangym", _replace)


def replace_unprintable() -> None:
    """Let stdout and stderr print characters that their encoding lacks.

    A minus sign, a dash and the like are printed as similar ASCII characters, others as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        # Streams of other programs, or None, in which Python's own were replaced.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spangym")


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
