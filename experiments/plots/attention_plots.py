"""Attention weights of chosen examples, as heat maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb

from spangym.experiments.analysis.results import AttentionMap
from spangym.experiments.plots.panels import WIDTH, NoData, Panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import MUTED, SMALL, truncate_middle

_MAP, _HEAD, _GAP, _LEFT, _FOOT = 144, 22, 20, 30, 18
_COLORS = LinearSegmentedColormap.from_list("weights", [(*to_rgb("#3592d8"), 0.0), "#3592d8"])
"""From transparent, so that it works on a light and a dark page."""


def plot_attention_maps(data: PlotData) -> list[Panel]:
    """Plot one panel for each example and variant, one row for each layer."""
    examples = dict.fromkeys(each.example for each in data.results.attention_maps)
    panels = []
    for example, group in itertools.product(examples, data.results.groups):
        own = [
            each
            for each in data.results.attention_maps
            if (each.group, each.example) == (group, example)
        ]
        if own:
            height = len({each.layer for each in own}) * (_HEAD + _MAP + _GAP) + _FOOT
            title = f"{group}: {truncate_middle(example, 40)}"
            draw = partial(_draw, own, height)
            panels.append(Panel(title, draw, height, left=0, right=0, top=0, bottom=0))
    if not panels:
        raise NoData("no attention weights are stored")
    return panels


def _draw(attention_maps: Sequence[AttentionMap], height: int, axes: Axes) -> None:
    axes.set_axis_off()
    layers = sorted({each.layer for each in attention_maps})
    # Plain attention has a global path only.
    paths = sorted({each.path for each in attention_maps}, reverse=True)
    for each in attention_maps:
        x = _LEFT + paths.index(each.path) * (_MAP + _GAP + _LEFT)
        y = height - (layers.index(each.layer) + 1) * (_HEAD + _MAP + _GAP) + _GAP
        _draw_map(each, axes.inset_axes((x / WIDTH, y / height, _MAP / WIDTH, _MAP / height)))


def _draw_map(attention_map: AttentionMap, axes: Axes) -> None:
    queries, keys = attention_map.weights.shape
    title = f"layer {attention_map.layer}, {attention_map.path}"
    axes.set(xlim=(0, keys), ylim=(queries, 0), xticks=[0, keys], yticks=[0, queries])
    if attention_map.weights.any():
        axes.imshow(
            attention_map.weights,
            cmap=_COLORS,
            norm=PowerNorm(0.5, 0, float(attention_map.weights.max())),
            extent=(0, keys, queries, 0),
            aspect="auto",
            interpolation="none",
        )
        title += f": {attention_map.entropy:.2f} nats"
    else:
        axes.text(keys / 2, queries / 2, "off", ha="center", va="center", color=MUTED, size=SMALL)
    axes.set_title(title, size=SMALL, loc="left", pad=4)
    axes.tick_params(labelsize=SMALL, length=2)
    axes.grid(False)
    axes.spines[:].set(visible=True, linewidth=0.5)
