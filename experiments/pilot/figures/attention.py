"""Attention weights of chosen examples, as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb

from spangym.experiments.analysis.results import AttentionMap
from spangym.experiments.plots.panels import WIDTH, NoData, Panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.style import MUTED, SMALL, truncate_middle
from spangym.experiments.reports.tables import format_number

_MAP, _HEAD, _GAP, _LEFT, _FOOT = 144, 22, 20, 30, 18
_COLORS = LinearSegmentedColormap.from_list("weights", [(*to_rgb("#3592d8"), 0.0), "#3592d8"])
"""From nothing, so that the page is seen through, light or dark."""


def plot_attention(results: PlotData) -> list[Panel]:
    """A panel for each example and variant: a row for each layer, a column for each path."""
    attention_maps: dict[tuple[str, str], list[AttentionMap]] = {}
    for each in results.results.attention_maps:
        attention_maps.setdefault((each.group, each.example), []).append(each)
    if not attention_maps:
        raise NoData("no attention weights were kept")
    panels = []
    for example in dict.fromkeys(example for _, example in attention_maps):
        for variant in results.results.groups:
            own = attention_maps.get((variant, example))
            if own:
                layers = len({each.layer for each in own})
                height = layers * (_HEAD + _MAP + _GAP) + _FOOT
                draw = partial(_draw, own, height)
                title = f"{variant}: {truncate_middle(example, 40)}"
                panels.append(Panel(title, draw, height, left=0, right=0, top=0, bottom=0))
    return panels


def _draw(attention_maps: Sequence[AttentionMap], height: int, axes: Axes) -> None:
    axes.set_axis_off()
    layers = sorted({each.layer for each in attention_maps})
    paths = [
        path for path in ("local", "global") if any(each.path == path for each in attention_maps)
    ]
    for each in attention_maps:
        x = _LEFT + paths.index(each.path) * (_MAP + _GAP + _LEFT)
        y = height - (layers.index(each.layer) + 1) * (_HEAD + _MAP + _GAP) + _GAP
        _draw_map(each, axes.inset_axes((x / WIDTH, y / height, _MAP / WIDTH, _MAP / height)))


def _draw_map(attention_map: AttentionMap, axes: Axes) -> None:
    queries, keys = attention_map.weights.shape
    where = f"layer {attention_map.layer}, {attention_map.path}"
    axes.set_xlim(0, keys)
    axes.set_ylim(queries, 0)
    if attention_map.weights.any():
        axes.imshow(
            attention_map.weights,
            cmap=_COLORS,
            norm=PowerNorm(0.5, 0, float(attention_map.weights.max())),
            extent=(0, keys, queries, 0),
            aspect="auto",
            interpolation="none",
        )
        where += f": {format_number(attention_map.entropy, 2)} nats"
    else:
        middle = {"ha": "center", "va": "center", "color": MUTED, "size": SMALL}
        axes.text(keys / 2, queries / 2, "off", **middle)
    axes.set_title(where, size=SMALL, loc="left", pad=4)
    axes.set_xticks([0, keys])
    axes.set_yticks([0, queries])
    axes.tick_params(labelsize=SMALL, length=2)
    axes.grid(False)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_linewidth(0.5)
