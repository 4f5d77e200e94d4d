"""Style of the figures: colors, lines and markers."""

from __future__ import annotations

from typing import Any, NamedTuple

from spangym.utils.text import MINUS, collapse_whitespace, printable

FG, MUTED, BG = "#1c1c1e", "#68686c", "#fefefe"
"""Colors of text, secondary text and the background; nothing else has them, since a report replaces
them by those of the reader's theme."""

COLORS = {
    "#0072b2": "#4ea3dc",
    "#d55e00": "#f0803c",
    "#009e73": "#1fc48f",
    "#c4568a": "#e88aae",
    "#3d1fb8": "#8560f5",
    "#d31636": "#cf3a32",
    "#574c05": "#f2e635",
    "#053f57": "#45e2f5",
}
"""Colors of the groups on a light page, and on a dark one: those of Okabe and Ito where thin lines
stay visible; distinguishable for readers with red-green color blindness."""

SMALL = 10.8
"""Smallest font size: 10 pixels on a phone."""

LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "os^DvPX*<>hp"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "figure.facecolor": BG,
    "grid.alpha": 0.25,
    "grid.color": MUTED,
    "grid.linewidth": 0.6,
    "hatch.color": MUTED,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "spangym",
    "text.color": FG,
    # Labels come from users: a dollar sign does not begin a formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 11,
    "xtick.major.size": 3,
    "ytick.color": MUTED,
    "ytick.labelsize": 11,
    "ytick.major.size": 3,
}
"""Matplotlib parameters; lengths in points, which are pixels in a report."""


class LineStyle(NamedTuple):
    """Color, line style and marker of a group, as Matplotlib names them."""

    color: str
    linestyle: Any
    marker: str


BASELINE_STYLE = LineStyle(MUTED, "--", "o")
"""Style of non-learning baselines."""


def style_for(position: int) -> LineStyle:
    """Style of the group at a position; the first 24 are different.

    Example:
        >>> style_for(0) == style_for(8)
        False
    """
    colors = [*COLORS]
    turn = position // len(colors)
    color, marker = colors[position % len(colors)], _MARKERS[position % len(_MARKERS)]
    return LineStyle(color, LINES[turn % len(LINES)], marker)


def ci_alpha(count: int) -> float:
    """Opacity of each of ``count`` bands, so that lines stay visible below all of them."""
    return min(0.16, 0.7 / count)


def truncate_middle(text: str, characters: int) -> str:
    """Shorten a text to one line; its middle is left out, since labels differ in their ends.

    Example:
        >>> truncate_middle("a rather long label", 9)
        'a rat…bel'
    """
    text = printable(collapse_whitespace(text))
    if len(text) <= characters:
        return text
    end = (characters - 1) * 2 // 5
    return f"{text[: characters - 1 - end]}…{text[len(text) - end :]}"


def format_tick(value: float, _position: object = None) -> str:
    """Format a number for a tick or a cell, with a true minus sign.

    Example:
        >>> format_tick(0.25), format_tick(9000), format_tick(20_000), format_tick(1_500_000)
        ('0.25', '9,000', '20k', '1.5M')
    """
    size = abs(value)
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    for limit, unit, ending in ((1e4, 1e3, "k"), (1e6, 1e6, "M"), (1e9, 1e9, "G")):
        if size >= limit:
            text = f"{value / unit:.4g}{ending}"
    return text.replace("-", MINUS)


def percent(share: float) -> str:
    """Format a fraction as whole percent.

    Example:
        >>> percent(0.1)
        '10 %'
    """
    return f"{100 * share:.0f} %"
