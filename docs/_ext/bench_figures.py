"""Figures of the benches, drawn from their stored rows.

``goals`` shows every figure that has a goal, relative to it; ``growth`` shows figures by length or
number of environments. Run this script with a folder to look at them: it writes PNG files.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from stored_tables import RESULTS, format_value, read

from spangym.experiments.plots.panels import Panel, render_grid
from spangym.experiments.plots.style import (
    BASELINE_STYLE,
    COLORS,
    FG,
    MUTED,
    SMALL,
    STYLE,
    LineStyle,
    format_tick,
    style_for,
)

BENCHES = ("attention", "envs", "tables", "agents", "experiments", "transformers", "pilot")

_, ORANGE, GREEN, *_ = COLORS
_SIZES = re.compile(
    r"(ctx|window|environments|dims|levels|batch elements|heads of) ([\d,]+)(?: to [\d,]+)?$"
)
_MARKS: dict[str, dict[str, Any]] = {
    "goal met": {"marker": "o", "color": GREEN, "markersize": 7},
    "missed": {"marker": "s", "color": ORANGE, "mfc": "none", "markersize": 6.5, "mew": 1.6},
}
_WIDTH, _LEFT, _RIGHT, _LINE = 736, 330, 170, 34
_FARTHEST = 100.0
"""Farthest distance from a goal that is drawn to scale, as a factor."""


def bench_paths() -> dict[str, Path]:
    """Files of the benches by name, which may be missing."""
    return {name: RESULTS / f"bench-{name}-cpu.json" for name in BENCHES}


def gpu_paths() -> list[Path]:
    """Files that ``spangym bench gpu`` wrote."""
    return sorted(RESULTS.glob("gpu-*.json"))


@dataclass
class Family:
    """Rows of a bench that differ in sizes only.

    Attributes:
        name: Their name without sizes.
        rows: The rows that have a value.
        sizes: Sizes of each row by name.
    """

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[dict[str, int]] = field(default_factory=list)


def families(rows: Sequence[Mapping[str, Any]]) -> list[Family]:
    """Group rows that have a value by their names without sizes, in their order.

    Example:
        >>> rows = [{"name": f"time, ctx {ctx}, window 8", "value": 1.0} for ctx in (16, 32)]
        >>> [(each.name, each.sizes) for each in families(rows)]
        [('time', [{'ctx': 16, 'window': 8}, {'ctx': 32, 'window': 8}])]
    """
    found: dict[str, Family] = {}
    for row in rows:
        if row.get("value") is None:
            continue
        words, sizes = [], {}
        for part in row["name"].split(", "):
            if size := _SIZES.match(part):
                sizes[size[1]] = int(size[2].replace(",", ""))
            else:
                words.append(part)
        family = found.setdefault(", ".join(words), Family(", ".join(words)))
        family.rows.append(dict(row))
        family.sizes.append(sizes)
    return [*found.values()]


def figures(path: Path) -> dict[str, Figure]:
    """The figures of stored rows by their kind, of those that have data."""
    if not path.is_file():
        return {}
    rows = read(path.name)["rows"]
    title = path.stem.removesuffix("-cpu").replace("-", " ", 1)
    if any("variant" in row for row in rows):
        return _pilot(rows, title)
    grouped = families(rows)
    drawn = {"goals": _goals(grouped, title), "growth": _growth(grouped, title)}
    return {kind: figure for kind, figure in drawn.items() if figure is not None}


def _goals(grouped: Sequence[Family], title: str) -> Figure | None:
    """Values relative to their goals, one line for each family."""
    shown = []
    for family in grouped:
        rows = [row for row in family.rows if row["goal"] is not None]
        if rows:
            shown.append((family.name, rows))
    if not shown:
        return None
    height = _LINE * len(shown) + 74
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        width = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
        axes = figure.add_axes((_LEFT / _WIDTH, 44 / height, width, _LINE * len(shown) / height))
        place: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "size": SMALL,
            "va": "center",
            "annotation_clip": False,
        }
        for line, (name, rows) in enumerate(shown):
            ratios = [_over_goal(row) for row in rows]
            for met, style in zip((True, False), _MARKS.values(), strict=True):
                own = [each for each, row in zip(ratios, rows, strict=True) if row["met"] is met]
                axes.plot(own, [line] * len(own), linestyle="", **style)
            label = textwrap.fill(name, 52)
            axes.annotate(label, (0, line), (12 - _LEFT, 0), color=FG, linespacing=1.1, **place)
            axes.annotate(_describe(rows), (1, line), (10, 0), color=MUTED, **place)
        axes.axvline(1, color=FG, linewidth=1.2)
        axes.set_xscale("log")
        every = [1.0, *(_over_goal(row) for _, rows in shown for row in rows)]
        axes.set_xlim(min(0.4, min(every) / 1.25), max(2.5, max(every) * 1.25))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_yticks([])
        low, high = axes.get_xlim()
        ticks = (0.01, 0.1, 1, 10, 100) if high / low > 60 else (0.1, 0.25, 0.5, 1, 2, 4, 10)
        axes.xaxis.set_major_locator(FixedLocator([each for each in ticks if low <= each <= high]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("better than the goal by a factor of")
        axes.spines["left"].set_visible(False)
        top = 1 - 20 / height
        figure.text(12 / _WIDTH, top, title, size=14, weight="bold", va="center")
        marks = {label: Line2D([], [], ls="", **style) for label, style in _MARKS.items()}
        figure.legend(
            handles=[*marks.values()],
            labels=[*marks],
            loc="center right",
            bbox_to_anchor=(1, top),
            ncols=2,
            frameon=False,
            handletextpad=0.1,
        )
    return figure


def _over_goal(row: Mapping[str, Any]) -> float:
    """How many times better than its goal a value is; 1 if both are 0."""
    value, goal = row["value"], row["goal"]
    better, worse = (goal, value) if row["direction"] == "lower" else (value, goal)
    if better == worse:
        return 1.0
    ratio = better / worse if worse > 0 else _FARTHEST
    return min(max(ratio, 1 / _FARTHEST), _FARTHEST)


def _describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Range of the values and the goals."""

    def limits(values: Sequence[float]) -> str:
        low, high = format_value(min(values)), format_value(max(values))
        return low if low == high else f"{low} to {high}"

    values, goals = ([row[key] for row in rows] for key in ("value", "goal"))
    sign = "≤" if rows[0]["direction"] == "lower" else "≥"
    return f"{limits(values)}\n(goal {sign} {limits(goals)})"


def _growth(grouped: Sequence[Family], title: str) -> Figure | None:
    """Values by length or number of environments on logarithmic axes, one panel for each family."""
    panels: list[Panel] = []
    styles: dict[str, LineStyle] = {}
    goals: list[float | None] = []
    for family in grouped:
        for axis in ("ctx", "environments"):
            if len({sizes.get(axis) for sizes in family.sizes} - {None}) >= 3:
                lines = _lines(family, axis)
                for label, points in lines.items():
                    styles.setdefault(label, style_for(len(styles)))
                    goals += [goal for *_, goal in points]
                draw = partial(_draw_growth, lines, styles, axis)
                panels.append(Panel(family.name, draw, height=232, left=52, top=8, bottom=44))
    if not panels:
        return None
    legend = [(label, style) for label, style in styles.items() if label]
    has_goals = any(goal is not None for goal in goals)
    caption = "Bars: goals of the line of the same color." if has_goals else ""
    return render_grid(panels, f"{title}: by size", caption, legend, columns=2)


def _lines(family: Family, axis: str) -> dict[str, list[tuple[int, float, float | None]]]:
    """Points (size, value, goal) of each combination of the other sizes."""
    lines: dict[str, list[tuple[int, float, float | None]]] = {}
    for row, sizes in zip(family.rows, family.sizes, strict=True):
        if axis in sizes:
            others = [f"{key} {size:,}" for key, size in sizes.items() if key != axis]
            point = (sizes[axis], row["value"], row["goal"])
            lines.setdefault(", ".join(others), []).append(point)
    return lines


def _draw_growth(
    lines: Mapping[str, list[tuple[int, float, float | None]]],
    styles: Mapping[str, LineStyle],
    axis: str,
    axes: Axes,
) -> None:
    for label, points in lines.items():
        points = sorted(points)
        style = styles[label]
        sizes = [size for size, *_ in points]
        axes.plot(sizes, [value for _, value, _ in points], **style._asdict(), ms=5, lw=1.8)
        goals = [(size, goal) for size, _, goal in points if goal is not None]
        if goals:
            axes.plot(*zip(*goals, strict=True), "_", color=style.color, ms=18, mew=1.4)
    _log_axes(axes, sorted({size for points in lines.values() for size, *_ in points}))
    axes.set_xlabel({"ctx": "tokens"}.get(axis, axis))


def _pilot(rows: Sequence[Mapping[str, Any]], title: str) -> dict[str, Figure]:
    """Cost relative to full attention by length; of the spans only the longest."""
    shown = [row for row in rows if not re.search(r"fixed:[1-8]$", row["variant"])]
    names = [*dict.fromkeys(row["variant"] for row in shown)]
    if not names:
        return {}
    styles = {name: style_for(number) for number, name in enumerate(names[1:])}
    styles[names[0]] = BASELINE_STYLE
    panels = []
    for task, unit in (("text", "bytes"), ("speech", "seconds")):
        own = [row for row in shown if row["task"] == task]
        for phase in ("training", "inference"):
            if own:
                draw = partial(_draw_cost, own, styles, phase, unit)
                panels.append(
                    Panel(f"{task}: {phase}", draw, height=282, left=52, top=8, bottom=44)
                )
    caption = "Time over that of the same model with full attention; lower is better."
    return {
        "growth": render_grid(
            panels, f"{title}: cost by length", caption, [(name, styles[name]) for name in names]
        )
    }


def _draw_cost(
    rows: Sequence[Mapping[str, Any]],
    styles: Mapping[str, LineStyle],
    phase: str,
    unit: str,
    axes: Axes,
) -> None:
    lengths = []
    for row in rows:
        sizes = [each["seconds" if unit == "seconds" else "tokens"] for each in row["lengths"]]
        values = [each[f"{phase}_ratio"] for each in row["lengths"]]
        axes.plot(sizes, values, **styles[row["variant"]]._asdict(), ms=4.5, lw=1.6)
        lengths.append(sizes)
    _log_axes(axes, sorted({round(size) for each in lengths for size in each}))
    axes.set_xlabel(unit)


def _log_axes(axes: Axes, sizes: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([*sizes]))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high / low < 3:
        middle = (low * high) ** 0.5
        low, high = middle / 1.75, middle * 1.75
        axes.set_ylim(low, high)
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 200 else (1,)
    axes.yaxis.set_major_locator(LogLocator(10, subs=steps))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(format_tick))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*bench_paths().values(), *gpu_paths()]:
        for kind, figure in figures(path).items():
            figure.savefig(folder / f"{path.stem}-{kind}.png", dpi=110)
