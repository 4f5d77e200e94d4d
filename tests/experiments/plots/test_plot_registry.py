import contextlib
import dataclasses
from typing import Any

import pytest

from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.panels import NoData
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS

from ..drawing import drawn, line_of, plot_data_of, texts
from ..pilot.synthetic import FAILED, VARIANTS, make_pilot
from ..synthetic import make_results

ODD_LABELS = ("$x_1$", "<b>&amp; {x}", "_hidden", "Größe → Ω", "l" * 40 + "o" * 39 + "ng")
ENVIRONMENTS = ("spangym/SpanBudget-v0", "$e_1$ <i>", "long-range " * 6)
COMPARISON = {
    *("reward", "qk_pairs", "pareto", "differences", "aggregates", "profiles"),
    *("probability_of_improvement", "radar", "span_heatmap", "runtime"),
}
PILOT = {
    *("error", "loss", "qk_pairs", "spans", "pareto", "differences", "runtime"),
    *("error_by_action", "temperature_laws", "attention_maps"),
}


def test_every_plot_belongs_to_a_study_type():
    assert {*PLOTS} == COMPARISON | PILOT


@pytest.fixture(scope="module")
def odd_comparison() -> PlotData:
    return plot_data_of(make_results(ENVIRONMENTS, ODD_LABELS, seeds=3, episodes=20))


@pytest.fixture(scope="module")
def odd_pilot() -> PlotData:
    return plot_data_of(
        make_pilot(
            variants=ODD_LABELS,
            stopped=ODD_LABELS[-1:],
            failed=(),
            plain=ODD_LABELS[:1],
            examples=("$y$ <i>",),
            tokens=12,
            laws={ODD_LABELS[1]: "a", ODD_LABELS[-1]: "b"},
        )
    )


def check_labels_and_edges(data: PlotData, name: str) -> str:
    """Text of a figure that is drawn without formulas and within its page."""
    figure = PLOTS[name].draw(data)
    found = texts(figure)
    assert not any(each.get_parse_math() for each in found if "$" in each.get_text())
    used, page = figure.get_tightbbox(), figure.bbox_inches
    assert used.x0 >= page.x0 - 0.02
    assert used.x1 <= page.x1 + 0.02
    assert used.y0 >= page.y0 - 0.02
    assert used.y1 <= page.y1 + 0.02
    return "\n".join(each.get_text() for each in found)


@pytest.mark.parametrize("name", sorted(COMPARISON))
def test_labels_of_a_comparison_are_complete(odd_comparison: PlotData, name: str):
    text = check_labels_and_edges(odd_comparison, name)
    assert all(label in text for label in ODD_LABELS[:4])
    # The middle of a long label is left out.
    assert "lll…ooo" in text
    over_all = {"profiles", "probability_of_improvement", "aggregates", "radar"}
    assert name in over_all or "$e_1$ <i>" in text


@pytest.mark.parametrize("name", sorted(PILOT))
def test_labels_of_a_pilot_are_complete(odd_pilot: PlotData, name: str):
    text = check_labels_and_edges(odd_pilot, name)
    assert ODD_LABELS[1] in text
    assert name == "temperature_laws" or "_hidden" in text
    assert "lll…ooo" in text or name in ("spans", "temperature_laws", "attention_maps")
    assert "mathdefault" not in text


def drawable(data: PlotData) -> set[str]:
    names = set()
    for name, spec in PLOTS.items():
        with contextlib.suppress(NoData):
            spec.panels(data)
            names.add(name)
    return names


@pytest.mark.parametrize(
    ("tables", "left"),
    [
        ((), COMPARISON - {"radar"}),
        (("curves",), COMPARISON - {"radar", "reward", "qk_pairs"}),
        (("curves", "values", "episodes", "action_counts"), set()),
    ],
)
def test_plots_of_a_comparison_need_their_tables(
    one: PlotData, tables: tuple[str, ...], left: set[str]
):
    assert drawable(without(one.results, *tables)) == left


def test_a_comparison_without_learners_has_plots_of_its_baselines():
    data = plot_data_of(make_results(learners=()))
    assert drawable(data) == {"profiles", "aggregates", "span_heatmap", "pareto"}


@pytest.mark.parametrize(
    ("tables", "left"),
    [
        ((), PILOT),
        (("action_values", "attention_maps"), PILOT - {"error_by_action", "attention_maps"}),
        (("values", "curves", "action_values", "attention_maps"), set()),
    ],
)
def test_plots_of_a_pilot_need_their_tables(tables: tuple[str, ...], left: set[str]):
    assert drawable(without(make_pilot(tokens=8), *tables)) == left


def without(results: Results, *names: str) -> PlotData:
    changes: dict[str, Any] = {name: getattr(results, name)[:0] for name in names}
    return plot_data_of(dataclasses.replace(results, **changes))


def test_groups_have_the_same_style_in_all_plots(speech: PlotData):
    legend = speech.legend()
    assert [label for label, _ in legend] == [*VARIANTS]
    assert len({(style.color, str(style.linestyle)) for _, style in legend}) == 13
    assert len({(style.color, style.marker) for _, style in legend}) == 13
    for name in ("error", "pareto", "error_by_action"):
        axes = drawn(PLOTS[name].panels(speech)[-1])
        for label in VARIANTS[2:]:
            assert line_of(axes, label).get_color() == speech.line_style(label).color
    # Without its only training a variant leaves the legend, and the others keep their styles.
    single = plot_data_of(make_pilot(seeds=1, examples=()))
    assert [each for each in legend if each[0] != FAILED] == single.legend()
    few, many = (
        plot_data_of(make_results(learners=("a", "b"), seeds=n, episodes=4)) for n in (1, 2)
    )
    assert few.line_style("b") == many.line_style("b") != few.line_style("a")
