"""Texts of CPython's library that are the same on every supported version.

`library_texts.json` lists the files of each split with their SHA-256; no text is stored in this
package. `docs/_scripts/list_library_texts.py` makes the list. This module needs only the standard
library, so that a test can run it on other versions of Python.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import sysconfig
from pathlib import Path
from typing import NoReturn

LIST = Path(__file__).with_name("library_texts.json")
QUOTES = re.compile(rb"""^r?["']+\\?|["']+$""")


@functools.cache
def read_library_texts(split: str) -> dict[str, bytes]:
    """Read the files of a split, ``train`` or ``evaluation``.

    Returns:
        ``code``: the files. ``documentation``: their docstrings of several lines, each line
        without the white space and quotation marks around it.

    Raises:
        ValueError: A file is missing or differs from the list.
    """
    code, documentation = [], []
    for name, entry in json.loads(LIST.read_text("utf-8"))[split].items():
        text = _read(name, entry["sha256"])
        code.append(text)
        lines = text.splitlines()
        for first, last in entry["docstrings"]:
            docstring = b"\n".join(line.strip() for line in lines[first - 1 : last])
            documentation.append(QUOTES.sub(b"", docstring).strip() + b"\n")
    return {"documentation": b"\n".join(documentation), "code": b"\n".join(code)}


def _read(name: str, sha256: str) -> bytes:
    path = Path(sysconfig.get_path("stdlib"), name)
    try:
        # Installers for Windows may write other line endings.
        text = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        _refuse(path, error.strerror or str(error), error)
    if hashlib.sha256(text).hexdigest() != sha256:
        _refuse(path, "its SHA-256 is not the listed one")
    return text


def _refuse(path: Path, reason: str, error: OSError | None = None) -> NoReturn:
    raise ValueError(
        f"the builtin texts cannot be read from Python {platform.python_version()}: {str(path)!r}: "
        f"{reason}. They need unchanged library files of CPython 3.11 to 3.13: repair or change "
        "the installation of Python, or use another dataset"
    ) from error
