"""Text for tables, figures, terminals and file names."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def collapse_whitespace(text: str) -> str:
    """Replace line breaks and runs of white space by single spaces."""
    return " ".join(text.split())


def printable(text: object) -> str:
    r"""Return text on one line in which every character that cannot be seen is an escape.

    Labels, file names and messages of others pass through this function before a terminal, a
    report or a file shows them: they may hold control sequences, line breaks, marks that reverse
    the direction of writing, or bytes that are not UTF-8. Such a byte of a file name is shown as
    the byte. All other characters stay, those of any language included.

    Example:
        >>> printable("red \x1b[31m, two\nlines, caf\udce9.txt")
        'red \\x1b[31m, two\\nlines, caf\\xe9.txt'
    """
    return "".join(
        each if each.isprintable() or unicodedata.category(each) == "Zs" else _escape(each)
        for each in str(text)
    )


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> pluralize(1, "trial"), pluralize(1200, "trial")
        ('1 trial', '1,200 trials')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shell_join(words: Iterable[object]) -> str:
    r"""Return a command that a shell reads as these words, in printable characters.

    Example:
        >>> shell_join(["spangym", "curves", "my run", "tab\t"])
        "spangym curves 'my run' $'tab\\t'"
    """
    return " ".join(map(_shell_quote, map(str, words)))


def _shell_quote(word: str) -> str:
    if printable(word) == word:
        return shlex.quote(word)
    return "$'" + printable(word.replace("\\", r"\\").replace("'", r"\'")) + "'"


def slug(name: str) -> str:
    """Replace all characters that are unsafe in a file name.

    Example:
        >>> slug("fixed:3")
        'fixed-3'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def _escape(character: str) -> str:
    code = ord(character)
    # Python decodes a byte that is not UTF-8 in a file name as such a character.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
