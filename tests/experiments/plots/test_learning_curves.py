import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from scipy import stats

from spangym.experiments.plots.learning_curves import moving_average_on_grid, seed_curves
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_names import Axis
from spangym.experiments.plots.plot_registry import PLOTS

from ..drawing import drawn, figure_of, line_of, plot_data_of, texts, xs, ys
from ..pilot.synthetic import STOPPED, VARIANTS, column, make_pilot
from ..synthetic import make_results

ENVIRONMENT = "spangym/SpanBudget-v0"


@pytest.mark.parametrize("window", [1.0, 30.0, 1000.0])
def test_moving_average_is_the_mean_of_the_window(window: float):
    generator = np.random.default_rng(0)
    ends = np.repeat(np.cumsum(generator.integers(1, 20, size=30)), 2).astype(float)
    returns = generator.normal(size=60)
    grid = np.linspace(ends[0], ends[-1], 50)
    expected = []
    for step in grid:
        recent = (ends > step - window) & (ends <= step)
        if not recent.any():
            recent = ends == ends[ends <= step].max()
        expected.append(returns[recent].mean())
    np.testing.assert_allclose(moving_average_on_grid(ends, returns, grid, window), expected)


def by_seed(data: PlotData, agent: str, column: str) -> list[np.ndarray]:
    """A column of the curves of an agent's trainings."""
    table = data.results.curves
    metric = column if column in ("return", "qk_pairs") else "return"
    table = table[(table["group"] == agent) & (table["metric"] == metric)]
    name = "value" if column == metric else column
    return [table.loc[table["seed"] == seed, name].to_numpy(float) for seed in range(5)]


def test_lines_are_means_over_seeds_and_bands_their_intervals(one: PlotData):
    (panel,) = PLOTS["reward"].panels(one)
    axes = drawn(panel)
    for position, agent in enumerate(one.results.learners):
        # Episodes of 16 steps in two environments.
        grid = np.linspace(32, 3200, 200)
        seeds = [
            moving_average_on_grid(ends, returns, grid, 320)
            for ends, returns in zip(
                by_seed(one, agent, "step"), by_seed(one, agent, "return"), strict=True
            )
        ]
        line = line_of(axes, agent)
        np.testing.assert_allclose(xs(line), grid)
        np.testing.assert_allclose(ys(line), np.mean(seeds, axis=0))
        low, high = stats.ttest_1samp(np.array(seeds), 0).confidence_interval(0.95)
        corners = np.asarray(axes.collections[position].get_paths()[0].vertices)
        assert corners[:, 1].min() == pytest.approx(low.min())
        assert corners[:, 1].max() == pytest.approx(high.max())
        assert line.get_color() == one.line_style(agent).color


def test_a_wider_window_makes_smoother_curves(one: PlotData):
    rough, smooth = (
        seed_curves(dataclasses.replace(one, smooth=share), ENVIRONMENT, "return")[0].mean
        for share in (0.01, 0.5)
    )
    assert np.abs(np.diff(smooth)).sum() < np.abs(np.diff(rough)).sum() / 2


def test_curves_against_wall_time_and_query_key_pairs(one: PlotData):
    by_steps, by_wall, by_keys = (
        seed_curves(dataclasses.replace(one, x=x), ENVIRONMENT, "return")[0]
        for x in ("steps", "wall", "qk_pairs")
    )
    seconds = by_seed(one, by_steps.group, "seconds")
    keys = by_seed(one, by_steps.group, "qk_pairs")
    assert by_wall.x[-1] == pytest.approx(np.mean([each[-1] for each in seconds]))
    assert by_keys.x[-1] == pytest.approx(np.mean([each.sum() for each in keys]))
    # After the first two environments have ended together.
    assert by_keys.x[0] == pytest.approx(np.mean([each[:2].sum() for each in keys]))
    assert np.isfinite(
        seed_curves(dataclasses.replace(one, x="qk_pairs"), ENVIRONMENT, "qk_pairs", layer=None)[
            0
        ].x
    ).all()
    for other in (by_wall, by_keys):
        assert (np.diff(other.x) > 0).all()
        np.testing.assert_array_equal(other.values, by_steps.values)


def test_levels_of_the_baselines_are_named_at_the_edge(one: PlotData):
    (panel,) = PLOTS["reward"].panels(one)
    axes = drawn(panel)
    means = one.means(ENVIRONMENT)
    for label in ("oracle", "fixed:6", "random"):
        assert set(ys(line_of(axes, label))) == {means[label]}
    # Without the line that leads to it.
    boxes = {each.get_text(): Text.get_window_extent(each) for each in texts(figure_of(axes))}
    edge = axes.get_window_extent().x1
    for label in ("oracle", "fixed:6", "random"):
        assert boxes[label].x0 > edge
        assert boxes[label].x1 <= figure_of(axes).bbox.x1


def test_near_levels_have_names_that_stand_apart():
    results = make_results()
    values = results.values.copy()
    values.loc[values["metric"] == "return", "value"] /= 1000
    data = plot_data_of(dataclasses.replace(results, values=values))
    (panel,) = PLOTS["reward"].panels(data)
    axes = drawn(panel)
    boxes = [
        Text.get_window_extent(each)
        for each in texts(figure_of(axes))
        if each.get_text() in ("oracle", "fixed:6", "random")
    ]
    assert len(boxes) == 3
    assert not any(
        one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index]
    )


def test_wide_bands_leave_room_to_see_the_lines():
    axes = drawn(PLOTS["reward"].panels(plot_data_of(make_results(seeds=2, episodes=40)))[0])
    band = max(np.asarray(each.get_paths()[0].vertices)[:, 1].max() for each in axes.collections)
    heights = [height for line in axes.lines for height in ys(line)]
    low, high = axes.get_ylim()
    assert low <= min(heights) <= max(heights) <= high < band
    assert max(heights) - min(heights) > (high - low) / 2


def test_a_single_seed_has_a_line_and_no_band():
    data = plot_data_of(make_results(seeds=1))
    (panel,) = PLOTS["reward"].panels(data)
    axes = drawn(panel)
    assert len(ys(line_of(axes, "ppo"))) == 200
    assert all(not each.get_paths() for each in axes.collections)


def test_a_single_episode_is_a_point():
    data = plot_data_of(make_results(episodes=2, num_envs=2))
    axes = drawn(PLOTS["reward"].panels(data)[0])
    assert line_of(axes, "dqn").get_marker() == data.line_style("dqn").marker


@pytest.mark.parametrize("x", ["steps", "wall"])
def test_error_is_the_mean_over_seeds_where_it_was_measured(speech: PlotData, x: Axis):
    results = dataclasses.replace(speech, x=x)
    seen, unseen = PLOTS["error"].panels(results)
    assert (seen.title, unseen.title) == ("WER, seen speakers", "WER, unseen speakers")
    table = speech.results.curves
    measured = range(100, 601, 100)
    errors, seconds = (
        [
            column(table, name, group="focus", metric="error", split="unseen", step=update).mean()
            for update in measured
        ]
        for name in ("value", "seconds")
    )
    axes = drawn(unseen)
    line = line_of(axes, "focus")
    np.testing.assert_allclose(ys(line), 100 * np.array(errors))
    np.testing.assert_allclose(xs(line), [*measured] if x == "steps" else seconds)
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < min(ys(line)) < max(ys(line)) < high


def test_training_loss_is_smoothed_over_a_share_of_the_training(speech: PlotData):
    training, seen, unseen = PLOTS["loss"].panels(speech)
    assert [each.title for each in (training, seen, unseen)] == [
        "Loss, training",
        "Loss, seen speakers",
        "Loss, unseen speakers",
    ]
    recent = pd.DataFrame(speech.results.curves[speech.results.curves["step"] > 540])
    last = column(recent, "value", group="focus", metric="loss", split="training").mean()
    assert ys(line_of(drawn(training), "focus"))[-1] == pytest.approx(last)


def crosses(axes: Axes) -> list[tuple[float, float]]:
    return [(xs(each)[0], ys(each)[0]) for each in axes.lines if each.get_marker() == "x"]


def test_a_cross_marks_a_training_that_ended_early(speech: PlotData):
    for panel in PLOTS["error"].panels(speech):
        axes = drawn(panel)
        line = line_of(axes, STOPPED)
        assert crosses(axes) == [(xs(line)[-1], ys(line)[-1])]
        assert xs(line)[-1] == 200
        assert xs(line_of(axes, "focus"))[-1] == 600


def test_one_seed_has_no_band():
    three, one = (
        drawn(PLOTS["error"].panels(plot_data_of(make_pilot(seeds=seeds, examples=())))[0])
        for seeds in (3, 1)
    )
    bands = [sum(len(each.get_paths()) for each in axes.collections) for axes in (three, one)]
    assert bands == [13, 0]


def test_spans_have_a_panel_a_variant_and_a_line_a_layer(speech: PlotData):
    panels = PLOTS["spans"].panels(speech)
    assert [panel.title for panel in panels] == [*VARIANTS[2:]]
    axes = drawn(panels[2])
    curves = speech.results.curves
    recent = pd.DataFrame(curves[curves["step"] > 540])
    for layer, line in enumerate(axes.lines):
        expected = column(recent, "value", group="focus", metric="span", layer=layer).mean()
        assert ys(line)[-1] == pytest.approx(expected)
    assert [each.get_text() for each in axes.texts][-2:] == ["layer 0", "layer 1"]
    assert len({drawn(panel).get_ylim() + drawn(panel).get_xlim() for panel in panels}) == 1
