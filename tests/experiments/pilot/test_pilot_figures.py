import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from spangym.experiments.analysis.results import Results
from spangym.experiments.pilot.figures.kinds import PILOT_PLOTS
from spangym.experiments.plots.panels import NoData, Panel
from spangym.experiments.plots.plot_data import Axis, PlotData
from spangym.experiments.plots.save import save_figures, save_tables
from spangym.experiments.plots.style import BG

from ..drawing import drawn, line_of, plot_data_of, texts, xs, ys
from .synthetic import FAILED, LONGER, SHORTER, STOPPED, VARIANTS, column, make_pilot

ODD = ("$x_1$", "<b>&amp; {x}", "_hidden", "Größe → Ω", "l" * 40 + "o" * 39 + "ng")


@pytest.fixture(scope="module")
def speech() -> PlotData:
    return plot_data_of(make_pilot(examples=()))


@pytest.fixture(scope="module")
def odd() -> PlotData:
    rows = make_pilot(
        variants=ODD,
        stopped=ODD[-1:],
        failed=(),
        plain=ODD[:1],
        examples=("$y$ <i>",),
        tokens=12,
        laws={ODD[1]: "a", ODD[-1]: "b"},
    )
    return plot_data_of(rows)


@pytest.mark.parametrize("name", PILOT_PLOTS)
def test_nothing_is_cut_off_and_labels_are_as_they_are(odd: PlotData, name: str):
    figure = PILOT_PLOTS[name].draw(odd)
    found = texts(figure)
    assert not any(each.get_parse_math() for each in found if "$" in each.get_text())
    said = "\n".join(each.get_text() for each in found)
    assert "<b>&amp; {x}" in said
    assert name == "laws" or "_hidden" in said
    assert "lll…ooo" in said or name in ("spans", "laws", "attention")
    assert "mathdefault" not in said
    used, page = figure.get_tightbbox(), figure.bbox_inches
    assert used.x0 >= page.x0 - 0.02
    assert used.x1 <= page.x1 + 0.02
    assert used.y0 >= page.y0 - 0.02
    assert used.y1 <= page.y1 + 0.02


def test_thirteen_variants_are_told_apart_and_look_the_same_everywhere(speech: PlotData):
    legend = speech.legend()
    assert [label for label, _ in legend] == [*VARIANTS]
    line_styles = [(line_style.color, str(line_style.linestyle)) for _, line_style in legend]
    assert len(set(line_styles)) == len(line_styles) == 13
    assert len({(line_style.color, line_style.marker) for _, line_style in legend}) == 13
    for name in ("error", "loss", "keys", "by_span"):
        for panel in PILOT_PLOTS[name].panels(speech):
            axes = drawn(panel)
            for label in VARIANTS[2:]:
                assert line_of(axes, label).get_color() == speech.line_style(label).color
    # One that has no training is not in the legend, and the others keep their looks.
    single = plot_data_of(make_pilot(seeds=1, examples=()))
    assert [each for each in legend if each[0] != FAILED] == single.legend()


@pytest.mark.parametrize("x", ["steps", "wall"])
def test_error_is_the_mean_over_seeds_where_it_was_measured(speech: PlotData, x: Axis):
    results = dataclasses.replace(speech, x=x)
    seen, unseen = PILOT_PLOTS["error"].panels(results)
    assert (seen.title, unseen.title) == ("WER on seen voices", "WER on unseen voices")
    table = speech.curves("error", "unseen")
    measured = range(100, 601, 100)
    errors, seconds = (
        [column(table, name, group="focus", step=update).mean() for update in measured]
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
    training, seen, unseen = PILOT_PLOTS["loss"].panels(speech)
    assert [each.title for each in (training, seen, unseen)] == [
        "Training loss",
        "Loss on seen voices",
        "Loss on unseen voices",
    ]
    curves = speech.curves("loss", "training")
    last = column(curves[curves["step"] > 540], "value", group="focus").mean()
    assert ys(line_of(drawn(training), "focus"))[-1] == pytest.approx(last)


def crosses(axes: Axes) -> list[tuple[float, float]]:
    return [(xs(each)[0], ys(each)[0]) for each in axes.lines if each.get_marker() == "x"]


def test_a_cross_stands_where_a_training_ended_early(speech: PlotData):
    for panel in PILOT_PLOTS["error"].panels(speech):
        axes = drawn(panel)
        line = line_of(axes, STOPPED)
        assert crosses(axes) == [(xs(line)[-1], ys(line)[-1])]
        assert xs(line)[-1] == 200
        assert xs(line_of(axes, "focus"))[-1] == 600


def test_one_seed_has_no_band():
    three, one = (
        drawn(PILOT_PLOTS["error"].panels(plot_data_of(make_pilot(seeds=seeds, examples=())))[0])
        for seeds in (3, 1)
    )
    bands = [sum(len(each.get_paths()) for each in axes.collections) for axes in (three, one)]
    assert bands == [13, 0]


def test_time_starts_at_zero_and_names_the_ratio(speech: PlotData):
    updates, trainings = (drawn(panel) for panel in PILOT_PLOTS["runtime"].panels(speech))
    assert updates.get_xlim()[0] == trainings.get_xlim()[0] == 0
    ratio = speech.estimates("time_ratio", "all")["focus"].mean
    labels = [each.get_text() for each in updates.texts]
    assert labels[4] == f"focus, {ratio:.2f} times"
    points = [xs(each)[0] for each in updates.lines if len(xs(each)) == 1]
    assert points == [each.mean for each in speech.estimates("milliseconds", "all").values()]
    points = [xs(each)[0] for each in trainings.lines if len(xs(each)) == 1]
    assert points == [each.mean for each in speech.estimates("seconds", "all").values()]


def test_keys_are_shares_of_full_attention(speech: PlotData):
    _, unseen, training = PILOT_PLOTS["keys"].panels(speech)
    point = line_of(drawn(unseen), "focus")
    assert xs(point) == pytest.approx([190.0])
    assert ys(point) == pytest.approx([100 * speech.estimates("error", "unseen")["focus"].mean])
    curves = speech.results.curves
    recent = curves[curves["step"] > 540]
    last = ys(line_of(drawn(training), "focus"))[-1]
    expected = column(recent, "value", group="focus", metric="qk_pairs").mean()
    assert last == pytest.approx(expected)


def test_spans_have_a_panel_a_variant_and_a_line_a_layer(speech: PlotData):
    panels = PILOT_PLOTS["spans"].panels(speech)
    assert [panel.title for panel in panels] == [*VARIANTS[2:]]
    axes = drawn(panels[2])
    curves = speech.results.curves
    recent = curves[curves["step"] > 540]
    for layer, line in enumerate(axes.lines):
        expected = column(recent, "value", group="focus", metric="span", layer=layer).mean()
        assert ys(line)[-1] == pytest.approx(expected)
    assert [each.get_text() for each in axes.texts][-2:] == ["layer 0", "layer 1"]
    assert len({drawn(panel).get_ylim() + drawn(panel).get_xlim() for panel in panels}) == 1


def test_set_spans_are_compared_with_the_baseline(speech: PlotData):
    _, unseen = PILOT_PLOTS["by_span"].panels(speech)
    axes = drawn(unseen)
    line = line_of(axes, "focus")
    assert xs(line) == [*range(10)]
    assert np.argmin(ys(line)) == 5
    level = line_of(axes, "standard")
    assert ys(level) == pytest.approx(
        [100 * speech.estimates("error", "unseen")["standard"].mean] * 2
    )


def test_laws_are_hollow_where_seeds_do_not_tell(speech: PlotData):
    (panel,) = PILOT_PLOTS["laws"].panels(speech)
    assert panel.title == f"{LONGER} minus {SHORTER}"
    axes = drawn(panel)
    table = speech.statistics.differences
    table = table[table["pairing"] == "temperature law"]
    points = [each for each in axes.lines if len(xs(each)) == 1]
    assert [xs(each)[0] for each in points] == (100 * table["difference"]).tolist()
    assert [each.get_markerfacecolor() == BG for each in points] == (
        table["outcome"] == "inconclusive"
    ).tolist()


def maps_of(panel: Panel) -> list[Axes]:
    return [each for each in drawn(panel).child_axes if isinstance(each, Axes)]


def test_attention_has_a_map_for_each_layer_and_path():
    variants = ("standard", "focus", STOPPED)
    rows = make_pilot(variants=variants, examples=("one", "two"), tokens=20)
    panels = PILOT_PLOTS["attention"].panels(plot_data_of(rows))
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


def without(rows: Results, *names: str) -> PlotData:
    return plot_data_of(
        dataclasses.replace(rows, **{name: getattr(rows, name)[:0] for name in names})
    )


@pytest.mark.parametrize(
    ("lacking", "drawable"),
    [
        (("action_values", "attention_maps"), {*PILOT_PLOTS} - {"by_span", "attention"}),
        (("values", "curves", "action_values", "attention_maps"), set()),
    ],
)
def test_what_there_is_not_is_said(lacking: tuple[str, ...], drawable: set[str]):
    results = without(make_pilot(tokens=8), *lacking)
    for name, kind in PILOT_PLOTS.items():
        if name in drawable:
            kind.draw(results)
        else:
            with pytest.raises(NoData, match=r"\w+"):
                kind.draw(results)


def test_files_are_named_by_figure_and_axis(tmp_path: Path, speech: PlotData):
    by_wall = dataclasses.replace(speech, x="wall")
    names = ["error", "laws", "attention"]
    said = save_figures(PILOT_PLOTS, by_wall, names, tmp_path, ["svg"])
    assert said == [
        f"drawn: {tmp_path / 'error_wall.svg'}",
        f"drawn: {tmp_path / 'laws.svg'}",
        "attention: not drawn: no attention weights were kept",
    ]
    paths = [*save_tables(speech, tmp_path, ["csv", "markdown", "latex"])]
    assert [each.name for each in paths] == [
        "table.csv",
        "table.md",
        "table.tex",
        "by_action.csv",
        "by_action.md",
        "by_action.tex",
    ]
    assert (tmp_path / "table.tex").read_text().isascii()
    assert (tmp_path / "by_action.tex").read_text().count(r"\midrule") == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [*(each.name for each in paths), "error_wall.svg", "laws.svg"]
    )
