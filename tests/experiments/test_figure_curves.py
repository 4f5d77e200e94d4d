import dataclasses

import numpy as np
import pytest
from matplotlib.text import Text
from scipy import stats

from spangym.experiments.plots.curve_utils import moving_average_on_grid
from spangym.experiments.plots.curves import reward_curves
from spangym.experiments.plots.labels import beside, spread
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS

from .drawing import drawn, figure_of, line_of, plot_data_of, texts, xs, ys
from .synthetic import make_results


@pytest.fixture(scope="module")
def one() -> PlotData:
    return plot_data_of(make_results())


@pytest.mark.parametrize("window", [1.0, 30.0, 1000.0])
def test_smoothed_is_the_mean_of_the_window(window: float):
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


def test_more_is_averaged_over_where_more_is_asked_for(one: PlotData):
    rough, smooth = (
        reward_curves(dataclasses.replace(one, smooth=share))[0].mean for share in (0.01, 0.5)
    )
    assert np.abs(np.diff(smooth)).sum() < np.abs(np.diff(rough)).sum() / 2


def test_curves_against_wall_time_and_visited_keys(one: PlotData):
    by_steps, by_wall, by_keys = (
        reward_curves(dataclasses.replace(one, x=x))[0] for x in ("steps", "wall", "qk_pairs")
    )
    seconds = by_seed(one, by_steps.label, "seconds")
    keys = by_seed(one, by_steps.label, "qk_pairs")
    assert by_wall.x[-1] == pytest.approx(np.mean([each[-1] for each in seconds]))
    assert by_keys.x[-1] == pytest.approx(np.mean([each.sum() for each in keys]))
    # After the first two environments have ended together.
    assert by_keys.x[0] == pytest.approx(np.mean([each[:2].sum() for each in keys]))
    for other in (by_wall, by_keys):
        assert (np.diff(other.x) > 0).all()
        np.testing.assert_array_equal(other.values, by_steps.values)


def test_levels_of_the_baselines_are_named_at_the_edge(one: PlotData):
    (panel,) = PLOTS["reward"].panels(one)
    axes = drawn(panel)
    means = one.means("spangym/SpanBudget-v0")
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


def test_spread_moves_no_further_than_needed():
    apart = np.array([0.0, 50.0, 100.0])
    assert spread(apart, 10, 0, 100).tolist() == apart.tolist()
    close = spread(np.array([99.0, 98.0, 97.0]), 10, 0, 100)
    assert close.tolist() == [100.0, 90.0, 80.0]


def test_labels_beside_points_cover_nothing():
    points = np.array([[50.0, 50.0], [55.0, 50.0], [99.0, 99.0], [50.0, 50.0]])
    taken = [(point - 3, point + 3) for point in points]
    offsets = beside([("ab", point) for point in points], taken, 100, 100)
    boxes = list(taken)
    for point, offset in zip(points, offsets, strict=True):
        assert offset is not None
        half = np.array([6.6, 5.5])
        low, high = point + offset - half, point + offset + half
        assert (low >= 0).all()
        assert (high <= 100).all()
        assert all((high <= box[0]).any() or (low >= box[1]).any() for box in boxes)
        boxes.append((low, high))
    assert beside([("ab", points[0])], [(points[0] * 0, points[0] * 2)], 100, 100) == [None]


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
    for kind in PLOTS.values():
        if kind is not PLOTS["radar"]:
            kind.draw(data)


def test_a_single_episode_is_a_point():
    data = plot_data_of(make_results(episodes=2, num_envs=2))
    axes = drawn(PLOTS["reward"].panels(data)[0])
    assert line_of(axes, "dqn").get_marker() == data.line_style("dqn").marker
