import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from spangym.experiments.analysis.results import KEYS
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.pareto import PARETO_LINE, pareto_front
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.span_heatmap import mean_spans
from spangym.experiments.plots.style import BG, MUTED

from .drawing import drawn, figure_of, line_of, plot_data_of, xs, ys
from .synthetic import make_results


@pytest.fixture(scope="module")
def one() -> PlotData:
    return plot_data_of(make_results())


def contrast(one: str, other: str) -> float:
    """Of two colors, by WCAG 2."""

    def luminance(color: str) -> float:
        parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_pareto_front_is_what_nothing_beats(one: PlotData):
    generator = np.random.default_rng(0)
    points = {
        str(number): (float(x), float(y)) for number, (x, y) in enumerate(generator.random((50, 2)))
    }
    front = pareto_front(points)
    for agent, (cost, level) in points.items():
        beaten = any(
            other != agent and points[other][0] <= cost and points[other][1] >= level
            for other in points
        )
        assert (agent in front) == (not beaten)

    (panel,) = PLOTS["pareto"].panels(one)
    axes = drawn(panel)
    returns = one.means("spangym/SpanBudget-v0")
    costs = one.means("spangym/SpanBudget-v0", "qk_pairs")
    best = max((returns[each], costs[each]) for each in returns if each != "oracle")
    line = line_of(axes, PARETO_LINE)
    assert ys(line)[-1] == best[0]
    assert ys(line) == sorted(ys(line))
    for agent in one.results.learners:
        point = line_of(axes, agent)
        assert (xs(point), ys(point)) == ([costs[agent]], [returns[agent]])
    assert {"oracle", "random", "threshold", "0", "9"} <= {each.get_text() for each in axes.texts}


def test_what_is_far_worse_than_random_is_at_the_edge(one: PlotData):
    axes = drawn(PLOTS["pareto"].panels(one)[0])
    (floor,) = ys(line_of(axes, "fixed:0"))
    assert floor > one.means("spangym/SpanBudget-v0")["fixed:0"]
    assert line_of(axes, "fixed:0").get_marker() == "v"
    assert axes.get_ylim()[0] < floor < one.means("spangym/SpanBudget-v0")["random"]


def test_spans_are_means_over_decisions():
    action_counts = pd.DataFrame(
        [
            ("e", "a", 0, 0, "text", 1, 30, 10.0),
            ("e", "a", 1, 0, "text", 2, 10, 50.0),
            ("e", "a", 0, 1, "text", 2, 10, 200.0),
            ("e", "a", 0, 0, "code", 2, 10, 7.25),
        ],
        columns=[*KEYS, "layer", "content_type", "action", "count", "mean_span"],
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


def test_improvement_names_both_and_has_a_line_at_a_half(one: PlotData):
    (panel,) = PLOTS["probability_of_improvement"].panels(one)
    axes = drawn(panel)
    labels = [each.get_text() for each in axes.texts]
    assert labels[0] == "refiner > dqn"
    assert "ppo > best fixed" in labels
    assert xs(axes.lines[0]) == [0.5, 0.5]
    values = [xs(each)[0] for each in axes.lines if len(xs(each)) == 1]
    assert values == one.statistics.probability_of_improvement["probability"].tolist()


def test_many_pairs_take_several_panels():
    data = plot_data_of(
        make_results(learners=[f"agent {number}" for number in range(7)], episodes=4)
    )
    panels = PLOTS["probability_of_improvement"].panels(data)
    assert len(panels) == 3
    assert sum(len(drawn(panel).texts) for panel in panels) == 7 * 6 // 2 + 7


def test_differences_are_from_the_best_fixed_span(one: PlotData):
    (panel,) = PLOTS["differences"].panels(one)
    axes = drawn(panel)
    assert axes.get_xlabel() == "return, minus that of fixed:6"
    table = one.statistics.differences
    table = table[table["baseline"] == "fixed:6"]
    points = [each for each in axes.lines if len(xs(each)) == 1]
    assert [xs(each)[0] for each in points] == table["difference"].tolist()
    hollow = [each.get_markerfacecolor() == BG for each in points]
    assert hollow == (table["outcome"] == "inconclusive").tolist()
    assert 0 < sum(hollow) < len(hollow)


def test_aggregates_have_a_panel_each(one: PlotData):
    panels = PLOTS["aggregates"].panels(one)
    assert panels[0].title == "Interquartile mean"
    table = one.statistics.aggregates
    for panel, statistic in zip(panels, ("iqm", "median", "mean", "optimality gap"), strict=True):
        axes = drawn(panel)
        assert [each.get_text() for each in axes.texts] == [
            *one.results.learners,
            "threshold",
            "fixed:6",
        ]
        here = table[(table["statistic"] == statistic) & (table["group"] == "ppo")].iloc[0]
        bars = [xs(each) for each in axes.lines]
        assert [here["estimate"]] in bars
        assert [here["low"], here["high"]] in bars


def test_profiles_are_the_shares(one: PlotData):
    axes = drawn(PLOTS["profiles"].panels(one)[0])
    table = one.statistics.profiles
    for agent in (*one.results.learners, "best fixed"):
        here = table[table["group"] == agent]
        np.testing.assert_array_equal(ys(line_of(axes, agent)), here["share"])
    assert line_of(axes, "best fixed").get_color() == MUTED


def test_radar_is_closed_and_needs_three_environments(one: PlotData):
    with pytest.raises(NoData, match="3 environments"):
        PLOTS["radar"].draw(one)
    three = plot_data_of(make_results(("a", "b", "c"), episodes=4))
    axes = drawn(PLOTS["radar"].panels(three)[0])
    values = [three.means(environment, "score")["dqn"] for environment in ("a", "b", "c")]
    np.testing.assert_allclose(ys(line_of(axes, "dqn")), [*values, values[0]])
    assert axes.get_ylim()[0] <= 0
    assert axes.get_ylim()[1] >= 1
