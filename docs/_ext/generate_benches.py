"""Figures of the benches, and the parts of docs/performance.md that show them.

A part is `reference/benches/NAME.inc`. A bench without rows has an empty one.
"""

from __future__ import annotations

from pathlib import Path

from bench_figures import bench_paths, figures, gpu_paths
from themed_svgs import themed_images, themed_svgs

_ALTS = {
    "goals": "Measured figures of {title} relative to their goals",
    "growth": "Measured figures of {title} by length or number of environments",
}


def pages() -> dict[str, str | bytes]:
    """The figures, and one part for each bench; ``gpu`` has those of all devices."""
    written: dict[str, str | bytes] = {}
    parts = {name: [path] for name, path in bench_paths().items()} | {"gpu": gpu_paths()}
    for name, paths in parts.items():
        written[f"benches/{name}.inc"] = "\n".join(_show(path, written) for path in paths)
    return written


def _show(path: Path, written: dict[str, str | bytes]) -> str:
    """Draw the figures of stored rows; returns the Markdown that shows them."""
    parts = []
    for kind, figure in figures(path).items():
        name, title = f"{path.stem}-{kind}", path.stem.replace("-", " ")
        for file, content in themed_svgs(figure, name).items():
            written[f"benches/{file}"] = content
        parts.append(themed_images("/reference/benches", name, _ALTS[kind].format(title=title)))
    return "\n".join(parts)
