"""Figures as files and as inline SVG."""

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

# Without dates the same results give the same bytes.
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
    """Write a figure atomically to ``stem`` with the suffix of each of the `FORMATS`."""
    paths = []
    for each in formats:
        if each not in _METADATA:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {each!r}")
        path = ensure_suffix(stem, f".{each}")
        with atomic_write(path) as tmp:
            _write(figure, tmp, each, "spangym")
        paths.append(path)
    return paths


def svg_string(figure: Figure, name: str) -> str:
    """Render a figure as an ``<svg>`` element in the theme's colors, without background.

    ``name`` is the prefix of the ids, unique on the page: letters, digits and ``-``.
    """
    figure.patch.set_visible(False)
    written = io.BytesIO()
    _write(figure, written, "svg", name)
    svg = written.getvalue().decode().partition("<svg")[2]
    head, _, body = svg.partition(">")
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    if view is None:
        raise RuntimeError("the SVG of Matplotlib has no viewBox")
    # A style rule in an inline SVG would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _adapt_tag(tag[0], name), body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg viewBox="0 0 {view[1]} {view[2]}" width="{view[1]}" aria-hidden="true">{body}'


def _adapt_tag(tag: str, name: str) -> str:
    """Adapt a tag: theme colors, the page's font, short numbers and prefixed ids."""

    def themed(style: re.Match[str]) -> str:
        text = style[0]
        for color, variable in _THEME.items():
            text = text.replace(color, variable)
        # Matplotlib before 3.10 writes "font", later versions "font-size" and "font-family".
        text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
        return re.sub(r"font-family:[^;\"]*;? ?", "", text)

    tag = re.sub(r'style="[^"]*"', themed, tag)
    tag = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)


def _write(figure: Figure, file: Path | io.BytesIO, format_name: str, salt: str) -> None:
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style), warnings.catch_warnings():
        # The reader's fonts have more characters than those that measure the text here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            cast(Any, file), format=format_name, dpi=150, metadata=_METADATA[format_name]
        )
