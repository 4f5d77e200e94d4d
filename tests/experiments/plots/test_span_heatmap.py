import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from spangym.experiments.analysis.results import ACTION_COUNT_COLUMNS
from spangym.experiments.plots.panels import Panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.span_heatmap import mean_spans

from ..drawing import drawn, figure_of, plot_data_of
from ..pilot.synthetic import STOPPED, make_pilot
from ..synthetic import make_results


def contrast(one: str, other: str) -> float:
    """Of two colors, by WCAG 2."""

    def luminance(color: str) -> float:
        parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_spans_are_means_over_decisions():
    action_counts = pd.DataFrame(
        [
            ("e", "a", 0, 0, "text", 1, 30, 10.0),
            ("e", "a", 1, 0, "text", 2, 10, 50.0),
            ("e", "a", 0, 1, "text", 2, 10, 200.0),
            ("e", "a", 0, 0, "code", 2, 10, 7.25),
        ],
        columns=[*ACTION_COUNT_COLUMNS],
    )
    grid = mean_spans(action_counts)["e", "a"]
    assert grid.loc[0].to_dict() == {"text": 20.0, "code": 7.25}
    assert grid.loc[1, "text"] == 200.0
    assert math.isnan(float(grid.loc[1, "code"]))
    results = dataclasses.replace(
        make_results(("e",), ("a",), baselines=()), action_counts=action_counts
    )
    axes = drawn(PLOTS["span_heatmap"].panels(plot_data_of(results))[0])
    assert [each.get_text() for each in axes.texts] == ["a", "20", "7.2", "200", "\N{EN DASH}"]


def test_spans_can_be_read_on_their_colors(one: PlotData):
    axes = drawn(PLOTS["span_heatmap"].panels(one)[0])
    FigureCanvasAgg(figure_of(axes)).draw()
    cells = [cell for each in axes.collections for cell in np.asarray(each.get_facecolor())]
    numbers = [each for each in axes.texts if each.get_text() not in one.results.groups]
    assert len(cells) == len(numbers) == 4 * 2 * 5
    for cell, number in zip(cells, numbers, strict=True):
        assert contrast(to_hex(tuple(cell)), str(number.get_color())) >= 4.5


def maps_of(panel: Panel) -> list[Axes]:
    return [each for each in drawn(panel).child_axes if isinstance(each, Axes)]


def test_attention_has_a_map_for_each_layer_and_path():
    variants = ("standard", "focus", STOPPED)
    rows = make_pilot(variants=variants, examples=("one", "two"), tokens=20)
    panels = PLOTS["attention_maps"].panels(plot_data_of(rows))
    assert [panel.title for panel in panels] == [
        f"{variant}: {example}" for example, variant in itertools.product(("one", "two"), variants)
    ]
    focus = [each for each in rows.attention_maps if (each.group, each.example) == ("focus", "one")]
    maps = maps_of(panels[1])
    assert [each.get_title(loc="left") for each in maps] == [
        f"layer {each.layer}, {each.path}: {each.entropy:.2f} nats" for each in focus
    ]
    for axes, attention_map in zip(maps, focus, strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(np.asarray(image.get_array()), attention_map.weights)
    assert len(maps_of(panels[0])) == 2
    off = maps_of(panels[2])[2]
    assert not off.images
    assert [each.get_text() for each in off.texts] == ["off"]
    # Maps stand beside and below each other, none over another.
    boxes = [each.get_position() for each in maps]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
