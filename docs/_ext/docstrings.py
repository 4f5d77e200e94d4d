"""Adapt docstrings, which are read in the source as well, to reStructuredText."""

from __future__ import annotations

import collections
import re
from typing import Any

import generate_api
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python._object import PyObject

HEADING = re.compile(r"#{2,} (.*)")
RULE = re.compile(r"\|[-:| ]+\|")
NDARRAY = re.compile(
    r"~?numpy\.ndarray\[(?:~?typing\.)?tuple\[[^]]*\], ~?numpy\.dtype\[(.*?(?:\[[^]]*\])?)\]\]"
)
"""How Sphinx writes ``NDArray[...]``."""

NAMEDTUPLE_FIELD = type(vars(collections.namedtuple("_", "field"))["field"])


def convert_markdown(_app: Sphinx, _what: str, _name: str, _obj: Any, _opts: Any, lines: list[str]):
    """Convert headings (`##`) and tables as they stand in the docstrings of Gymnasium."""
    converted: list[str] = []
    for number, line in enumerate(lines):
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        text = line.strip()
        if found := HEADING.fullmatch(text):
            converted += [f".. rubric:: {found[1]}", ""]
        elif RULE.fullmatch(text):
            continue
        elif text.startswith("|") and text.endswith("|") and len(text) > 1:
            if RULE.fullmatch(following):
                converted += [".. list-table::", "   :header-rows: 1", ""]
            for column, cell in enumerate(text.strip("|").split("|")):
                converted.append(f"   {'*' if column == 0 else ' '} - {cell.strip()}")
        elif text.startswith(":vartype"):
            converted.append(re.sub(r"(?<![\w.~])(?:\w+\.)+\w+", r"~\g<0>", _with_ndarray(line)))
        else:
            converted.append(line)
    lines[:] = converted


def _with_ndarray(types: str) -> str:
    return NDARRAY.sub(r"~numpy.typing.NDArray[\1]", types)


def skip_member(_app: Sphinx, _what: str, _name: str, obj: Any, skip: bool, _opts: Any):
    """Skip the fields of a named tuple, which its docstring describes."""
    return True if isinstance(obj, NAMEDTUPLE_FIELD) else skip or None


def show_documented_bases(_app: Sphinx, _name: str, _obj: Any, _opts: Any, bases: list[Any]):
    """Replace a base class that the site does not document by its own bases."""
    documented = generate_api.documented_objects()

    def expand(base: Any) -> list[Any]:
        if getattr(base, "__module__", "").startswith("spangym.") and base not in documented:
            return [each for parent in base.__bases__ for each in expand(parent)]
        return [base]

    expanded = dict.fromkeys(each for base in bases for each in expand(base))
    bases[:] = [each for each in expanded if each is not object] or [object]


def move_return_type(app: Sphinx, what: str, name: str, _obj: Any, _opts: Any, signature: str, _):
    """Show the type of the result in the signature, and types of arguments in the description.

    Sphinx has both in one place only. Its own handler has collected the types before.
    """
    if signature == "(*args, **kwargs)":
        # Of a protocol.
        return "", None
    types = app.env.current_document.autodoc_annotations.get(name, {})
    for argument, text in types.items():
        types[argument] = _with_ndarray(text)
    result = types.pop("return", None) if what in ("function", "method") else None
    return None if result is None else (signature, result)


def write_dashes(_app: Sphinx, doctree: nodes.document):
    """Write a dash between the name and the text of a field, which Sphinx leaves to smartquotes."""
    for text in [each for each in doctree.findall(nodes.Text) if each == " -- "]:
        text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", convert_markdown)
    app.connect("autodoc-process-signature", move_return_type, priority=600)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-bases", show_documented_bases)
    app.connect("doctree-read", write_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
