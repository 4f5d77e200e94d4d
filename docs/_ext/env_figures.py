"""Figures of the environment pages, drawn from the stored baselines."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from themed_svgs import themed_svgs

from spangym.experiments.benchmarks.baselines import BaselineReturns
from spangym.experiments.plots.panels import Panel, render_panel
from spangym.experiments.plots.style import COLORS, FG, MUTED, SMALL, format_tick

BLUE, ORANGE, GREEN, PINK, *_ = COLORS
_LARGEST = 150.0
"""Area of a circle that stands for all chunks, in square points."""

_MOST_NUMBERS = 8
"""Columns up to which the cells of a heat map hold their numbers."""
MAX_LAYERS_OF_CIRCLES = 2
"""Number of layers up to which the oracle's actions are circles, beyond that colored cells."""
_PIXELS_OF_A_ROW = 17


def figures(row: BaselineReturns) -> dict[str, bytes]:
    """SVG files by name: ``returns`` and ``spans``, each light and dark."""
    panels = {
        "returns": Panel("", partial(_draw_returns, row), height=330, top=28, bottom=92),
        "spans": Panel("", partial(_draw_spans, row), height=330, left=112, top=28, bottom=92),
    }
    if len(row.actions) > MAX_LAYERS_OF_CIRCLES:
        height = max(330, 80 + _PIXELS_OF_A_ROW * len(row.by_content_type))
        panels["spans"] = Panel(
            "", partial(_draw_mean_spans, row), height=height, left=140, top=28, bottom=48
        )
    files: dict[str, bytes] = {}
    for name, panel in panels.items():
        files |= themed_svgs(render_panel(panel), name)
    return files


def _draw_returns(row: BaselineReturns, axes: Axes) -> None:
    for value, label, color, style in (
        (row.oracle, "oracle", ORANGE, "-"),
        (row.content_oracle, "best by layer and content type", GREEN, (0, (5, 1.5))),
        (row.best_by_layer, "best by layer", PINK, (0, (1.2, 1.2))),
        (row.random, "random", MUTED, "--"),
    ):
        axes.axhline(value, color=color, linestyle=style, linewidth=1.8, label=label)
    actions = range(len(row.fixed))
    axes.plot(actions, row.fixed, color=BLUE, marker="o", linewidth=1.8, label="fixed span")
    axes.set_xlabel("action in every layer" if len(row.actions) > 1 else "action")
    axes.set_xticks(actions)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(format_tick)
    _finish(axes, "Mean return of a chunk", columns=2)


def _draw_spans(row: BaselineReturns, axes: Axes) -> None:
    rows, actions = row.by_content_type, range(len(row.fixed))
    looks = ((0, BLUE, -0.18), (1, ORANGE, 0.18)) if len(row.actions) > 1 else ((0, BLUE, 0.0),)
    for layer, color, offset in looks:
        for index, part in enumerate(rows):
            counts = np.array(part.oracle_actions[layer])
            height = index + offset
            axes.scatter(
                actions,
                [height] * len(actions),
                s=_LARGEST * counts / counts.sum(),
                color=color,
                alpha=0.75,
                linewidth=0,
            )
            axes.scatter(part.actions[layer], height, s=34, marker="+", color=FG, linewidth=1.4)
        axes.scatter([], [], s=70, color=color, label=f"layer {layer}, chosen by the oracle")
    axes.scatter([], [], s=34, marker="+", color=FG, label="best for the content type")
    axes.set_yticks(range(len(rows)), [part.content_type for part in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(actions)
    axes.set_xlim(-0.6, len(actions) - 0.4)
    axes.set_xlabel("action")
    axes.grid(visible=False, axis="y")
    for boundary in range(1, len(rows)):
        axes.axhline(boundary - 0.5, color=MUTED, linewidth=0.6, alpha=0.5)
    _finish(axes, "Spans by content type", columns=1)


def _draw_mean_spans(row: BaselineReturns, axes: Axes) -> None:
    parts, actions = row.by_content_type, np.arange(len(row.fixed))
    counts = np.array([part.oracle_actions for part in parts], float)
    means = counts @ actions / counts.sum(-1)
    axes.imshow(means, cmap="Blues", vmin=0, vmax=actions[-1], aspect="auto")
    # In narrow cells the color alone shows the mean.
    shown = means if means.shape[1] <= _MOST_NUMBERS else means[:, :0]
    for (index, layer), mean in np.ndenumerate(shown):
        color = "white" if mean > 0.6 * actions[-1] else "black"
        text = f"{mean:.1f}"
        axes.text(layer, index, text, ha="center", va="center", color=color, fontsize=SMALL)
    axes.set_yticks(range(len(parts)), [part.content_type for part in parts], fontsize=SMALL)
    axes.set_xticks(range(means.shape[1]))
    axes.set_xlabel("layer")
    axes.grid(visible=False)
    _finish(axes, "Mean action of the oracle by content type", columns=1)


def _finish(axes: Axes, title: str, columns: int) -> None:
    axes.figure.text(0.02, 0.98, title, va="top", weight="bold")
    axes.figure.legend(
        *axes.get_legend_handles_labels(),
        loc="lower left",
        bbox_to_anchor=(0.02, 0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        fontsize=SMALL,
        handlelength=2.2,
        labelspacing=0.35,
    )
