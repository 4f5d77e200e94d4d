import numpy as np
import pandas as pd
import pytest

from spangym.experiments.plots.pareto import PARETO_LINE, pareto_front
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS

from ..drawing import drawn, line_of, xs, ys
from ..pilot.synthetic import column


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


def error(data: PlotData, group: str) -> float:
    return 100 * data.statistics.estimate("speech", group, "error", "unseen").mean


def test_costs_of_a_pilot_are_shares_of_full_attention(speech: PlotData):
    _, unseen = PLOTS["pareto"].panels(speech)
    axes = drawn(unseen)
    point = line_of(axes, "focus")
    assert xs(point) == pytest.approx([190.0])
    assert ys(point) == pytest.approx([error(speech, "focus")])
    # The lower the error, the better.
    assert ys(line_of(axes, PARETO_LINE)) == sorted(ys(line_of(axes, PARETO_LINE)), reverse=True)
    (training,) = PLOTS["qk_pairs"].panels(speech)
    recent = pd.DataFrame(speech.results.curves[speech.results.curves["step"] > 540])
    expected = column(recent, "value", group="focus", metric="qk_pairs").mean()
    assert ys(line_of(drawn(training), "focus"))[-1] == pytest.approx(expected)


def test_errors_by_action_are_compared_with_the_baseline(speech: PlotData):
    _, unseen = PLOTS["error_by_action"].panels(speech)
    axes = drawn(unseen)
    line = line_of(axes, "focus")
    assert xs(line) == [*range(10)]
    assert np.argmin(ys(line)) == 5
    assert ys(line_of(axes, "standard")) == pytest.approx([error(speech, "standard")] * 2)
