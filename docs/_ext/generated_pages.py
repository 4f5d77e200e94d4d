"""Write the generated pages into `docs/reference` before Sphinx reads the sources.

Each module in `GENERATORS` has a function ``pages() -> dict[str, str | bytes]``: contents by path
below `docs/reference`, of Markdown or reStructuredText pages and of images. A file is written only
if it changed, so that a second build reads only the pages of what changed; a file that no module
makes any more is deleted.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

GENERATORS = (
    "generate_agents",
    "generate_api",
    "generate_benches",
    "generate_cli",
    "generate_environments",
    "generate_results",
    "generate_root_pages",
    "generate_studies",
)
REFERENCE = Path(__file__).parents[1] / "reference"


def all_pages() -> dict[Path, bytes]:
    """Contents of the generated files by path."""
    pages: dict[Path, bytes] = {}
    for name in GENERATORS:
        for path, content in importlib.import_module(name).pages().items():
            if REFERENCE / path in pages:
                raise ValueError(f"docs/reference/{path} is made twice, again by {name}")
            pages[REFERENCE / path] = content if isinstance(content, bytes) else content.encode()
    return pages


def write_pages(app: Sphinx) -> None:
    """Write the files that changed and delete those of earlier builds."""
    del app
    pages = all_pages()
    for path in [each for each in REFERENCE.rglob("*") if each.is_file() and each not in pages]:
        path.unlink()
    for path, content in pages.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
