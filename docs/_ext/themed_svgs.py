"""Figures as SVG files for light and dark pages."""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.figure import Figure

from spangym.experiments.plots.style import BG, COLORS, FG, MUTED, STYLE

DARK = {FG: "#eeeef0", MUTED: "#a6a6ac", BG: "#131416", **COLORS}
"""Colors on a dark page by those on a light one."""


def themed_svgs(figure: Figure, name: str) -> dict[str, bytes]:
    """The figure as ``NAME-light.svg`` and ``NAME-dark.svg``, without background."""
    figure.patch.set_visible(False)
    written = io.BytesIO()
    # Text as paths: an image cannot use the fonts of the page.
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    svg = written.getvalue().decode()
    files = {f"{name}-light.svg": svg.encode()}
    for light, dark in DARK.items():
        svg = svg.replace(light, dark)
    return {**files, f"{name}-dark.svg": svg.encode()}


def themed_images(folder: str, name: str, alt: str) -> str:
    """Markdown of the two files of a figure, of which the page shows one."""
    return "\n".join(
        f":::{{container}} only-{theme}\n"
        f"```{{image}} {folder}/{name}-{theme}.svg\n:alt: {alt}\n```\n:::\n"
        for theme in ("light", "dark")
    )
