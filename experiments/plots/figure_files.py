"""Figures as files, and as parts of a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.figure import Figure

from spangym.experiments.plots.style import BG, COLORS, FG, MUTED, STYLE
from spangym.utils.atomic_io import atomic_write, ensure_suffix

FORMATS = ("png", "svg", "pdf")

# Without dates the same rows give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_THEME = {
    FG: "currentColor",
    MUTED: "var(--muted)",
    BG: "var(--bg)",
    **{color: f"var(--agent-{number})" for number, color in enumerate(COLORS)},
}


def save_figure(figure: Figure, stem: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Save a figure, each file whole or not at all.

    Args:
        figure: What is saved.
        stem: Path of the files but for their endings.
        formats: Of `FORMATS`.

    Returns:
        What was written.

    Raises:
        ValueError: There is no such format.
    """
    paths = []
    for ending in formats:
        if ending not in _METADATA:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, it is {ending!r}")
        path = ensure_suffix(stem, f".{ending}")
        with atomic_write(path) as tmp:
            _write(figure, tmp, ending, "spangym")
        paths.append(path)
    return paths


def svg_string(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element in the colors of the page's theme.

    Args:
        figure: What is shown; its background is left out.
        name: Of letters, digits and ``-``, another for each figure of the page: ids begin with it.
    """
    figure.patch.set_visible(False)
    written = io.BytesIO()
    _write(figure, written, "svg", name)
    svg = written.getvalue().decode().partition("<svg")[2]
    head, _, body = svg.partition(">")
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    if view is None:
        raise RuntimeError("matplotlib has written an SVG without a viewBox")
    # A rule for all elements would be one for the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _fitted(tag[0], name), body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="0 0 {view[1]} {view[2]}" width="{view[1]}" aria-hidden="true">{body}'


def _fitted(tag: str, name: str) -> str:
    """A tag with the theme's colors, the page's font, short numbers and ids of its own."""

    def themed(style: re.Match[str]) -> str:
        text = style[0]
        for color, variable in _THEME.items():
            text = text.replace(color, variable)
        # As matplotlib writes it before 3.10, and since.
        text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
        return re.sub(r"font-family:[^;\"]*;? ?", "", text)

    tag = re.sub(r'style="[^"]*"', themed, tag)
    tag = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)


def _write(figure: Figure, file: Path | io.BytesIO, ending: str, salt: str) -> None:
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style), warnings.catch_warnings():
        # A reader's fonts know more characters than those that measure the text here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(cast(Any, file), format=ending, dpi=150, metadata=_METADATA[ending])
