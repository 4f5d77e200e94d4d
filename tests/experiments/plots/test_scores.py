import numpy as np
import pytest

from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.style import MUTED

from ..drawing import drawn, line_of, plot_data_of, ys
from ..synthetic import make_results


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
