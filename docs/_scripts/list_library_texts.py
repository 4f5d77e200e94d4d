"""Write `envs/data/library_texts.json`: the library files that the builtin texts are made of.

python docs/_scripts/list_library_texts.py LIB...

Each LIB is the library of one release of CPython, a folder (``lib/python3.12``) or a zip file. The
list holds the modules of at least 1,000 bytes that are identical in all of them, and the lines of
their docstrings. The stored list was made from 3.11.2 (Debian), 3.11.3, 3.11.7, 3.12.1, 3.12.7,
3.13.0 and 3.13.2; 3.11.3, 3.12.7 and 3.13.2 are those of the npm package pyodide 0.25.1, 0.27.7
and 0.28.3, whose zip files lack what does not run in a browser. Left out are tests, what some
distributions package separately, what depends on the platform, and tables of characters
(`encodings`, `stringprep`). `pydoc_data.topics` is no part of it, because patch releases format
it again.
"""

import ast
import hashlib
import json
import sys
import zipfile
from pathlib import Path

LEFT_OUT = {
    *("__pycache__", "config", "curses", "dbm", "distutils", "encodings", "ensurepip", "idlelib"),
    *("lib-dynload", "lib2to3", "site-packages", "test", "tests", "tkinter", "turtledemo", "venv"),
    *("stringprep.py", "this.py", "windows_utils.py"),
}
"""Folders and modules."""


def main(libraries: list[str]) -> None:
    """Write the list."""
    releases = [_read(Path(library)) for library in libraries]
    names = sorted(set.union(*map(set, releases)))
    texts = {name: {files[name] for files in releases if name in files} for name in names}
    complete = [files for files, path in zip(releases, libraries, strict=True) if "zip" not in path]
    shared = {
        name: next(iter(found))
        for name, found in texts.items()
        if len(found) == 1 and all(name in files for files in complete)
    }
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in shared.items()}
    total = sum(map(len, shared.values()))
    splits, taken = {"train": {}, "evaluation": {}}, 0
    # A fifth of the bytes, whole files in the random order of their hashes, is for evaluation.
    for name in sorted(shared, key=digests.__getitem__):
        is_evaluation = taken + len(shared[name]) <= total / 5
        taken += len(shared[name]) * is_evaluation
        split = splits["evaluation" if is_evaluation else "train"]
        split[name] = {"sha256": digests[name], "docstrings": _docstrings(shared[name])}
    lines = []
    for split, files in splits.items():
        rows = [f"    {json.dumps(name)}: {json.dumps(files[name])}" for name in sorted(files)]
        lines.append(f'  "{split}": {{\n' + ",\n".join(rows) + "\n  }")
    path = Path(__file__).parents[2] / "envs" / "data" / "library_texts.json"
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _read(library: Path) -> dict[str, bytes]:
    if library.suffix == ".zip":
        with zipfile.ZipFile(library) as file:
            names = [name for name in file.namelist() if name.endswith(".py")]
            found = {name: file.read(name) for name in names}
    else:
        paths = library.rglob("*.py")
        found = {path.relative_to(library).as_posix(): path.read_bytes() for path in paths}
    return {
        name: text.replace(b"\r\n", b"\n")
        for name, text in found.items()
        if len(text) >= 1000 and not LEFT_OUT & {*name.split("/")} and "config-" not in name
    }


def _docstrings(text: bytes) -> list[list[int]]:
    """First and last line of each docstring of several lines."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docstring = node.body[0]
            if docstring.lineno < (docstring.end_lineno or 0):
                lines.append([docstring.lineno, docstring.end_lineno])
    return sorted(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
