import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from spangym.experiments.analysis.results import Results
from spangym.experiments.plots.figure_files import save_figure, svg_string
from spangym.experiments.plots.panels import NoData, render_panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.style import BG, FG, MUTED, format_tick, style_for, truncate_middle

from .drawing import plot_data_of, texts
from .synthetic import make_results

ODD_LABELS = ("$x_1$", "<b>&amp;", "_hidden", "Größe → Ω", "l" * 40 + "o" * 39 + "ng")
ENVIRONMENTS = ("spangym/SpanBudget-v0", "$e_1$ <i>", "long-range " * 6)


@pytest.fixture(scope="module")
def one() -> PlotData:
    return plot_data_of(make_results())


@pytest.fixture(scope="module")
def odd() -> PlotData:
    return plot_data_of(make_results(ENVIRONMENTS, ODD_LABELS, seeds=3, episodes=20))


@pytest.mark.parametrize("name", PLOTS)
def test_labels_are_shown_as_they_are(odd: PlotData, name: str):
    found = texts(PLOTS[name].draw(odd))
    said = "\n".join(each.get_text() for each in found)
    assert not any(each.get_parse_math() for each in found if "$" in each.get_text())
    assert "$x_1$" in said
    assert "<b>&amp;" in said
    assert "_hidden" in said
    if name not in ("profiles", "probability_of_improvement", "aggregates", "radar"):
        assert "$e_1$ <i>" in said
    # The middle of a long one is left out.
    assert "lll…ooo" in said


@pytest.mark.parametrize("name", PLOTS)
def test_nothing_is_cut_off_at_the_edge(odd: PlotData, name: str):
    figure = PLOTS[name].draw(odd)
    texts(figure)
    used, page = figure.get_tightbbox(), figure.bbox_inches
    assert used.x0 >= page.x0 - 0.02
    assert used.x1 <= page.x1 + 0.02
    assert used.y0 >= page.y0 - 0.02
    assert used.y1 <= page.y1 + 0.02


def test_same_rows_give_the_same_bytes(tmp_path: Path, one: PlotData):
    for name in ("reward", "span_heatmap"):
        first, second = (
            save_figure(PLOTS[name].draw(one), tmp_path / f"{name}.{number}") for number in range(2)
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
    data = plot_data_of(make_results(learners=("模型", "b"), episodes=10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(PLOTS["reward"].draw(data), tmp_path / "a")
    assert "模型" in (tmp_path / "a.svg").read_text("utf-8")


def without(results: Results, name: str) -> PlotData:
    """Results of rows without learners, without trainings, or without anything."""
    if name == "learners":
        return plot_data_of(make_results(learners=()))
    changes: dict[str, Any] = {"curves": results.curves[:0]}
    if name == "trials":
        changes |= {
            "values": results.values[:0],
            "episodes": results.episodes[:0],
            "action_counts": results.action_counts[:0],
        }
    return plot_data_of(dataclasses.replace(results, **changes))


@pytest.mark.parametrize(
    ("lacking", "drawable"),
    [
        ("learners", {"profiles", "aggregates", "span_heatmap", "pareto"}),
        ("trainings", {*PLOTS} - {"reward", "radar"}),
        ("trials", set()),
    ],
)
def test_what_there_is_not_is_said(lacking: str, drawable: set[str]):
    data = without(make_results(episodes=10), lacking)
    for name, kind in PLOTS.items():
        if name in drawable:
            kind.draw(data)
        else:
            with pytest.raises(NoData, match=r"\w+"):
                kind.draw(data)


def test_looks_differ_and_stay():
    line_styles = [style_for(position) for position in range(24)]
    assert (
        len(
            {
                (line_style.color, line_style.linestyle, line_style.marker)
                for line_style in line_styles
            }
        )
        == 24
    )
    assert len({line_style.color for line_style in line_styles}) == 8
    assert len({str(line_style.linestyle) for line_style in line_styles}) == 3
    # Nothing but text and what is secondary is themed by these.
    assert not {FG, MUTED, BG} & {line_style.color for line_style in line_styles}
    few, many = (
        plot_data_of(make_results(learners=("a", "b"), seeds=n, episodes=4)) for n in (1, 2)
    )
    assert few.line_style("b") == many.line_style("b") != few.line_style("a")


def test_inline_figures_take_the_colors_of_the_page(odd: PlotData):
    pictures = [
        svg_string(render_panel(panel), f"f{number}")
        for number, panel in enumerate(PLOTS["reward"].panels(odd))
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
        assert "currentColor" in picture or "var(--muted)" in picture
        assert "var(--agent-0)" in picture
        assert not {FG, MUTED, BG, style_for(0).color} & set(re.findall("#[0-9a-f]{6}", picture))
        assert "<style" not in picture
        assert "DejaVu" not in picture


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: format_tick(-0.25), "\N{MINUS SIGN}0.25"),
        (lambda: format_tick(0), "0"),
        (lambda: format_tick(12_500), "12.5k"),
        (lambda: format_tick(3.2e9), "3.2G"),
        (lambda: truncate_middle("two\nlines", 20), "two lines"),
        (lambda: len(truncate_middle("x" * 81, 20)), 20),
    ],
)
def test_texts_are_short(make: Callable[[], object], expected: object):
    assert make() == expected
