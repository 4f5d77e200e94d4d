import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from spangym.experiments.analysis.results import Rows
from spangym.experiments.plots.figure_files import inline_svg, save_figure
from spangym.experiments.plots.panels import NothingToDraw, draw_alone
from spangym.experiments.plots.plot_data import Results
from spangym.experiments.plots.plot_registry import FIGURES
from spangym.experiments.plots.style import FAINT, INK, PAPER, compact, look_of, shortened

from .drawing import results_of, texts
from .synthetic import make_rows

ODD_LABELS = ("$x_1$", "<b>&amp;", "_hidden", "Größe → Ω", "l" * 40 + "o" * 39 + "ng")
ENVIRONMENTS = ("spangym/SpanBudget-v0", "$e_1$ <i>", "long-range " * 6)


@pytest.fixture(scope="module")
def one() -> Results:
    return results_of(make_rows())


@pytest.fixture(scope="module")
def odd() -> Results:
    return results_of(make_rows(ENVIRONMENTS, ODD_LABELS, seeds=3, episodes=20))


@pytest.mark.parametrize("name", FIGURES)
def test_labels_are_shown_as_they_are(odd: Results, name: str):
    found = texts(FIGURES[name].draw(odd))
    said = "\n".join(each.get_text() for each in found)
    assert not any(each.get_parse_math() for each in found if "$" in each.get_text())
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
    texts(figure)
    used, page = figure.get_tightbbox(), figure.bbox_inches
    assert used.x0 >= page.x0 - 0.02
    assert used.x1 <= page.x1 + 0.02
    assert used.y0 >= page.y0 - 0.02
    assert used.y1 <= page.y1 + 0.02


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
