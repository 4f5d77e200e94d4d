import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from spangym.experiments.plots.figure_files import save_figure, svg_string
from spangym.experiments.plots.panels import render_panel
from spangym.experiments.plots.plot_data import PlotData
from spangym.experiments.plots.plot_registry import PLOTS
from spangym.experiments.plots.style import BG, FG, MUTED, format_tick, style_for, truncate_middle

from ..drawing import plot_data_of
from ..synthetic import make_results


def test_same_results_give_the_same_bytes(tmp_path: Path, one: PlotData):
    first, second = (
        save_figure(PLOTS["reward"].draw(one), tmp_path / f"{number}") for number in range(2)
    )
    assert [path.suffix for path in first] == [".png", ".svg", ".pdf"]
    for before, after in zip(first, second, strict=True):
        assert before.read_bytes() == after.read_bytes(), before
        assert len(before.read_bytes()) > 3000


def test_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    with pytest.raises(ValueError, match="png, svg, pdf"):
        save_figure(Figure(), tmp_path / "a", ["gif"])
    monkeypatch.setattr(Figure, "savefig", broken)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_missing_glyphs_cause_no_warning(tmp_path: Path):
    data = plot_data_of(make_results(learners=("模型", "b"), episodes=10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(PLOTS["reward"].draw(data), tmp_path / "a", ["png", "svg"])
    assert "模型" in (tmp_path / "a.svg").read_text("utf-8")


def test_styles_differ():
    styles = [style_for(position) for position in range(24)]
    assert len({(style.color, style.linestyle, style.marker) for style in styles}) == 24
    assert len({style.color for style in styles}) == 8
    assert len({style.linestyle for style in styles}) == 3
    # These are replaced by the colors of the page.
    assert not {FG, MUTED, BG} & {style.color for style in styles}


def test_inline_svg_uses_the_colors_of_the_page(one: PlotData):
    pictures = [
        svg_string(render_panel(PLOTS[name].panels(one)[0]), f"f{number}")
        for number, name in enumerate(("reward", "pareto"))
    ]
    ids = [each for picture in pictures for each in re.findall(r'\sid="([^"]+)"', picture)]
    assert len(ids) == len(set(ids)) > 0
    for number, picture in enumerate(pictures):
        assert picture.startswith("<svg viewBox=")
        assert all(each.startswith(f"f{number}-") for each in re.findall(r"url\(#([^)]+)", picture))
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
