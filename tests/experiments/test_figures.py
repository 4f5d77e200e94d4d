import dataclasses
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from spangym.experiments.figure_costs import FRONT, pareto_front
from spangym.experiments.figure_curves import reward_curves, smoothed
from spangym.experiments.figure_files import inline_svg, save_figure
from spangym.experiments.figure_labels import beside, spread
from spangym.experiments.figure_panels import NothingToDraw, Panel, Results, draw_alone
from spangym.experiments.figure_spans import mean_spans
from spangym.experiments.figure_style import FAINT, INK, PAPER, compact, look_of, shortened
from spangym.experiments.figures import FIGURES
from spangym.experiments.rows import Rows

from .synthetic import make_rows, make_statistics

ODD_LABELS = ("$x_1$", "<b>&amp;", "_hidden", "Größe → 模", "l" * 40 + "o" * 39 + "ng")
ENVIRONMENTS = ("spangym/SpanBudget-v0", "$e_1$ <i>", "long-range " * 6)


def results_of(rows: Rows, **changes: Any) -> Results:
    return Results(rows, make_statistics(rows), **changes)


@pytest.fixture(scope="module")
def one() -> Results:
    return results_of(make_rows())


@pytest.fixture(scope="module")
def odd() -> Results:
    return results_of(make_rows(ENVIRONMENTS, ODD_LABELS, seeds=3, episodes=20))


def drawn(panel: Panel) -> Axes:
    return draw_alone(panel).axes[0]


def figure_of(axes: Axes) -> Figure:
    assert isinstance(axes.figure, Figure)
    return axes.figure


def line_of(axes: Axes, label: str) -> Any:
    (line,) = [each for each in axes.lines if each.get_label() == label]
    return line


def texts(figure: Figure) -> list[Text]:
    """What is to be read on a figure that is drawn."""
    FigureCanvasAgg(figure).draw()
    found = (each for each in figure.findobj(Text) if isinstance(each, Text))
    return [each for each in found if each.get_visible() and each.get_text().strip()]


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
    np.testing.assert_allclose(smoothed(ends, returns, grid, window), expected)


def test_lines_are_means_over_seeds_and_bands_their_intervals(one: Results):
    (panel,) = FIGURES["reward"].panels(one)
    axes = drawn(panel)
    table = one.rows.curves
    for position, agent in enumerate(one.rows.learners):
        seeds = []
        for _, rows in table[table["agent"] == agent].groupby("training_seed"):
            ends, returns = rows["step"].to_numpy(float), rows["return"].to_numpy(float)
            grid = np.linspace(ends[0], ends[-1], 200)
            seeds.append(smoothed(ends, returns, grid, 0.1 * 3200))
        line = line_of(axes, agent)
        np.testing.assert_allclose(line.get_xdata(), grid)
        np.testing.assert_allclose(line.get_ydata(), np.mean(seeds, axis=0))
        low, high = stats.ttest_1samp(np.array(seeds), 0).confidence_interval(0.95)
        corners = axes.collections[position].get_paths()[0].vertices
        assert corners[:, 1].min() == pytest.approx(low.min())
        assert corners[:, 1].max() == pytest.approx(high.max())
        assert line.get_color() == one.look(agent).colour


def test_more_is_averaged_over_where_more_is_asked_for(one: Results):
    rough, smooth = (
        reward_curves(dataclasses.replace(one, smooth=share))[0].mean for share in (0.01, 0.5)
    )
    assert np.abs(np.diff(smooth)).sum() < np.abs(np.diff(rough)).sum() / 2


def test_curves_against_wall_time_and_visited_keys(one: Results):
    by_steps, by_wall, by_keys = (
        reward_curves(dataclasses.replace(one, x=x))[0] for x in ("steps", "wall", "visited_keys")
    )
    table = one.rows.curves[one.rows.curves["agent"] == by_steps.agent]
    groups = table.groupby("training_seed")
    assert by_wall.x[-1] == pytest.approx(groups["wall_seconds"].max().mean())
    assert by_keys.x[-1] == pytest.approx(groups["visited_keys"].sum().mean())
    # After the first two lanes have ended together.
    assert by_keys.x[0] == pytest.approx(
        groups["visited_keys"].agg(lambda keys: keys[:2].sum()).mean()
    )
    for other in (by_wall, by_keys):
        assert (np.diff(other.x) > 0).all()
        np.testing.assert_array_equal(other.returns, by_steps.returns)


def test_levels_of_the_references_are_named_at_the_edge(one: Results):
    (panel,) = FIGURES["reward"].panels(one)
    axes = drawn(panel)
    means = one.means("spangym/SpanBudget-v0")
    for label in ("oracle", "fixed:6", "random"):
        assert set(line_of(axes, label).get_ydata()) == {means[label]}
    boxes = {each.get_text(): each.get_window_extent() for each in texts(figure_of(axes))}
    edge = axes.get_window_extent().x1
    for label in ("oracle", "fixed:6", "random"):
        assert boxes[label].x0 > edge
        assert boxes[label].x1 <= figure_of(axes).bbox.x1


def test_near_levels_have_names_that_stand_apart():
    rows = make_rows()
    trials = rows.trials.assign(**{"return": rows.trials["return"] / 1000})
    results = results_of(dataclasses.replace(rows, trials=trials))
    (panel,) = FIGURES["reward"].panels(results)
    axes = drawn(panel)
    boxes = [
        each.get_window_extent()
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
        half = np.array([6.4, 5.5])
        low, high = point + offset - half, point + offset + half
        assert (low >= 0).all()
        assert (high <= 100).all()
        assert all((high <= box[0]).any() or (low >= box[1]).any() for box in boxes)
        boxes.append((low, high))
    assert beside([("ab", points[0])], [(points[0] * 0, points[0] * 2)], 100, 100) == [None]


def test_a_single_seed_has_a_line_and_no_band():
    results = results_of(make_rows(seeds=1))
    (panel,) = FIGURES["reward"].panels(results)
    axes = drawn(panel)
    assert len(line_of(axes, "ppo").get_ydata()) == 200
    assert all(not each.get_paths() for each in axes.collections)
    for kind in FIGURES.values():
        if kind is not FIGURES["radar"]:
            kind.draw(results)


def test_a_single_episode_is_a_point():
    results = results_of(make_rows(episodes=2, lanes=2))
    axes = drawn(FIGURES["reward"].panels(results)[0])
    assert line_of(axes, "dqn").get_marker() == results.look("dqn").marker


def test_pareto_front_is_what_nothing_beats(one: Results):
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

    (panel,) = FIGURES["pareto"].panels(one)
    axes = drawn(panel)
    summaries = one.statistics.summaries
    usable = summaries[summaries["agent"] != "oracle"]
    best = max(zip(usable["return"], usable["visited_keys"], strict=True))
    line = line_of(axes, FRONT)
    assert line.get_ydata()[-1] == best[0]
    assert list(line.get_ydata()) == sorted(line.get_ydata())
    for agent in one.rows.learners:
        (x,), (y,) = line_of(axes, agent).get_data()
        row = summaries[summaries["agent"] == agent].iloc[0]
        assert (x, y) == (row["visited_keys"], row["return"])
    assert {"oracle", "random", "threshold", "0", "9"} <= {each.get_text() for each in axes.texts}


def test_what_is_far_worse_than_random_is_at_the_edge(one: Results):
    axes = drawn(FIGURES["pareto"].panels(one)[0])
    (floor,) = line_of(axes, "fixed:0").get_ydata()
    assert floor > one.means("spangym/SpanBudget-v0")["fixed:0"]
    assert line_of(axes, "fixed:0").get_marker() == "v"
    assert axes.get_ylim()[0] < floor < one.means("spangym/SpanBudget-v0")["random"]


def test_spans_are_means_over_decisions():
    choices = pd.DataFrame(
        [
            ("e", "a", 0, 0, "text", 1, 30, 10.0),
            ("e", "a", 1, 0, "text", 2, 10, 50.0),
            ("e", "a", 0, 1, "text", 2, 10, 200.0),
            ("e", "a", 0, 0, "code", 2, 10, 7.25),
        ],
        columns=["environment", "agent", "training_seed", "layer", "content", "action", "decisions", "span"],
    )
    grid = mean_spans(choices)["e", "a"]
    assert grid.loc[0].to_dict() == {"text": 20.0, "code": 7.25}
    assert grid.loc[1, "text"] == 200.0
    assert math.isnan(float(grid.loc[1, "code"]))
    rows = dataclasses.replace(make_rows(("e",), ("a",), references=()), choices=choices)
    axes = drawn(FIGURES["spans"].panels(results_of(rows))[0])
    assert [each.get_text() for each in axes.texts] == ["a", "20", "7.2", "200", "\N{EN DASH}"]


def test_spans_can_be_read_on_their_colours(one: Results):
    axes = drawn(FIGURES["spans"].panels(one)[0])
    FigureCanvasAgg(figure_of(axes)).draw()
    cells = [colour for each in axes.collections for colour in each.get_facecolor()]
    numbers = [each for each in axes.texts if each.get_text() not in one.rows.agents]
    assert len(cells) == len(numbers) == 4 * 2 * 5
    for cell, number in zip(cells, numbers, strict=True):
        assert contrast(to_hex(cell), str(number.get_color())) >= 4.5


def test_improvement_names_both_and_has_a_line_at_a_half(one: Results):
    (panel,) = FIGURES["improvement"].panels(one)
    axes = drawn(panel)
    labels = [each.get_text() for each in axes.texts]
    assert labels[0] == "refiner > dqn"
    assert "ppo > best fixed" in labels
    assert list(axes.lines[0].get_xdata()) == [0.5, 0.5]
    values = [each.get_xdata()[0] for each in axes.lines if len(each.get_xdata()) == 1]
    assert values == one.statistics.improvement["probability"].tolist()


def test_many_pairs_take_several_panels():
    results = results_of(make_rows(learners=[f"agent {number}" for number in range(7)], episodes=4))
    panels = FIGURES["improvement"].panels(results)
    assert len(panels) == 3
    assert sum(len(drawn(panel).texts) for panel in panels) == 7 * 6 // 2 + 7


def test_differences_are_from_the_best_fixed_span(one: Results):
    (panel,) = FIGURES["differences"].panels(one)
    axes = drawn(panel)
    assert axes.get_xlabel() == "return, minus that of fixed:6"
    table = one.statistics.differences
    table = table[table["reference"] == "fixed:6"]
    points = [each for each in axes.lines if len(each.get_xdata()) == 1]
    assert [each.get_xdata()[0] for each in points] == table["difference"].tolist()
    hollow = [each.get_markerfacecolor() == PAPER for each in points]
    assert hollow == (table["verdict"] == "open").tolist()
    assert 0 < sum(hollow) < len(hollow)


def test_aggregates_have_a_panel_each(one: Results):
    panels = FIGURES["aggregates"].panels(one)
    assert panels[0].title == "Interquartile mean"
    table = one.statistics.aggregates
    for panel, statistic in zip(panels, ("iqm", "median", "mean", "optimality gap"), strict=True):
        axes = drawn(panel)
        assert [each.get_text() for each in axes.texts] == [
            *one.rows.learners,
            "threshold",
            "fixed:6",
        ]
        here = table[(table["statistic"] == statistic) & (table["agent"] == "ppo")].iloc[0]
        bars = [list(each.get_xdata()) for each in axes.lines]
        assert [here["estimate"]] in bars
        assert [here["low"], here["high"]] in bars


def test_profiles_are_the_shares(one: Results):
    axes = drawn(FIGURES["profiles"].panels(one)[0])
    table = one.statistics.profiles
    for agent in (*one.rows.learners, "best fixed"):
        here = table[table["agent"] == agent]
        np.testing.assert_array_equal(line_of(axes, agent).get_ydata(), here["share"])
    assert line_of(axes, "best fixed").get_color() == FAINT


def test_radar_is_closed_and_needs_three_environments(one: Results, odd: Results):
    with pytest.raises(NothingToDraw, match="3 environments"):
        FIGURES["radar"].draw(one)
    axes = drawn(FIGURES["radar"].panels(odd)[0])
    agent = odd.rows.learners[0]
    values = [odd.means(environment, "score")[agent] for environment in odd.rows.environments]
    np.testing.assert_allclose(line_of(axes, "$x_1$").get_ydata(), [*values, values[0]])
    assert axes.get_ylim()[0] <= 0
    assert axes.get_ylim()[1] >= 1


@pytest.mark.parametrize("name", FIGURES)
def test_labels_are_shown_as_they_are(odd: Results, name: str):
    said = "\n".join(each.get_text() for each in texts(FIGURES[name].draw(odd)))
    assert "$x_1$" in said
    assert "<b>&amp;" in said
    assert "_hidden" in said
    if name not in ("profiles", "improvement", "aggregates", "radar"):
        assert "$e_1$ <i>" in said
    # The middle of a long one is left out.
    assert "lll…ooo" in said


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_at_the_edge(odd: Results, name: str):
    figure = FIGURES[name].draw(odd)
    page = figure.bbox
    for text in texts(figure):
        box = text.get_window_extent()
        assert box.x0 >= page.x0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.y1 <= page.y1 + 1, text


def test_same_rows_give_the_same_bytes(tmp_path: Path, one: Results):
    for name in ("reward", "spans"):
        first, second = (
            save_figure(FIGURES[name].draw(one), tmp_path / f"{name}.{number}")
            for number in range(2)
        )
        assert [path.suffix for path in first] == [".png", ".svg", ".pdf"]
        for before, after in zip(first, second, strict=True):
            assert before.read_bytes() == after.read_bytes(), before
            assert len(before.read_bytes()) > 3000


def test_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with pytest.raises(ValueError, match="png, svg, pdf"):
        save_figure(Figure(), tmp_path / "a", ["gif"])
    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_characters_that_no_font_here_has_are_no_trouble(tmp_path: Path):
    results = results_of(make_rows(learners=("模型", "b"), episodes=10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(FIGURES["reward"].draw(results), tmp_path / "a")
    assert "模型" in (tmp_path / "a.svg").read_text("utf-8")


def without(rows: Rows, name: str) -> Results:
    """Results of rows without learners, without trainings, or without anything."""
    if name == "learners":
        return results_of(make_rows(learners=()))
    changes: dict[str, Any] = {"curves": rows.curves[:0]}
    if name == "trials":
        changes |= {
            "trials": rows.trials[:0],
            "episodes": rows.episodes[:0],
            "choices": rows.choices[:0],
        }
    return results_of(dataclasses.replace(rows, **changes))


@pytest.mark.parametrize(
    ("lacking", "drawable"),
    [
        ("learners", {"profiles", "aggregates", "spans", "pareto"}),
        ("trainings", {*FIGURES} - {"reward", "radar"}),
        ("trials", set()),
    ],
)
def test_what_there_is_not_is_said(lacking: str, drawable: set[str]):
    results = without(make_rows(episodes=10), lacking)
    for name, kind in FIGURES.items():
        if name in drawable:
            kind.draw(results)
        else:
            with pytest.raises(NothingToDraw, match=r"\w+"):
                kind.draw(results)


def test_looks_differ_and_stay():
    looks = [look_of(position) for position in range(24)]
    assert len({(look.colour, look.line, look.marker) for look in looks}) == 24
    assert len({look.colour for look in looks}) == 8
    assert len({str(look.line) for look in looks}) == 3
    # Nothing but text and what is secondary is themed by these.
    assert not {INK, FAINT, PAPER} & {look.colour for look in looks}
    few, many = (results_of(make_rows(learners=("a", "b"), seeds=n, episodes=4)) for n in (1, 2))
    assert few.look("b") == many.look("b") != few.look("a")


def test_inline_figures_take_the_colours_of_the_page(odd: Results):
    pictures = [
        inline_svg(draw_alone(panel), f"f{number}")
        for number, panel in enumerate(FIGURES["reward"].panels(odd))
    ]
    ids = [each for picture in pictures for each in re.findall(r'\sid="([^"]+)"', picture)]
    assert len(ids) == len(set(ids)) > 0
    for number, picture in enumerate(pictures):
        assert picture.startswith("<svg viewBox=")
        assert {
            each.startswith(f"f{number}-") for each in re.findall(r"url\(#([^)]+)", picture)
        } == {True}
        used = re.findall(r'href="#([^"]+)', picture)
        assert used
        assert set(used) <= set(ids)
        assert "currentColor" in picture or "var(--faint)" in picture
        assert "var(--agent-0)" in picture
        assert not {INK, FAINT, PAPER, look_of(0).colour} & set(re.findall("#[0-9a-f]{6}", picture))
        assert "<style" not in picture
        assert "DejaVu" not in picture


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: compact(-0.25), "\N{MINUS SIGN}0.25"),
        (lambda: compact(0), "0"),
        (lambda: compact(12_500), "12.5k"),
        (lambda: compact(3.2e9), "3.2G"),
        (lambda: shortened("two\nlines", 20), "two lines"),
        (lambda: len(shortened("x" * 81, 20)), 20),
    ],
)
def test_texts_are_short(make: Callable[[], object], expected: object):
    assert make() == expected


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
