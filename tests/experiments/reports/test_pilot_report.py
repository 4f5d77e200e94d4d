import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from spangym.experiments.analysis.results import Results
from spangym.experiments.reports.report import RunInfo, save_report

from ..browser import BEYOND, SIZES, SMALLEST, launched, opened
from ..drawing import plot_data_of
from ..pilot.synthetic import VARIANTS, make_pilot

LABELS = ("<b>bold</b>", "$x_1$", *VARIANTS[2:11], "long label " * 7, VARIANTS[12])
FACTS = RunInfo(
    title="speech <pilot>",
    toml='name = "speech"\n' + "wide = 0 " * 40,
    manifest={"command": ["spangym", "pilot", "speech"], "started": "2026-01-02", "cores": 2},
    folder="runs/my pilot",
)


def report_of(rows: Results, path: Path) -> str:
    save_report(path, plot_data_of(rows), FACTS)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("report") / "report.html"
    examples = ("<i>one</i>",)
    report_of(make_pilot(variants=LABELS, plain=LABELS[:2], examples=examples, missing=1), path)
    # Whatever the page complains of fails the last test here.
    yield from opened(browser, path, *SIZES["phone"])


@pytest.mark.parametrize("size", SIZES)
def test_page_fits_and_can_be_read(page: Page, size: str):
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(SMALLEST) >= 10
    figures = page.locator("figure svg")
    # By two axes: error and loss on two splits, and in training; differences; time; pareto; spans;
    # errors by action; one pair of laws; an example of each variant.
    assert figures.count() == 2 * (2 + 3) + 2 + 2 + 3 + 11 + 2 + 1 + 13
    for figure in figures.all():
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 300


def test_labels_and_ids_are_sound(page: Page):
    labels = page.locator("figure").evaluate_all("all => all.map(each => each.ariaLabel)")
    assert len(set(labels)) == len(labels)
    said = page.locator("figure svg text").all_text_contents()
    assert {"$x_1$", "<b>bold</b>"} <= {each.partition(",")[0] for each in said}
    assert page.locator("b, i, script").count() == 1
    ids = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(set(ids)) == len(ids) > 100
    used = page.locator("a, use").evaluate_all(
        "all => all.map(each => each.getAttribute('href') || each.getAttribute('xlink:href'))"
    )
    assert {each.removeprefix("#") for each in used} <= set(ids)


def test_heat_maps_are_there(page: Page):
    images = page.locator("#attention svg image")
    # Two layers, of which plain attention has one path; one path of one layer is off.
    assert images.count() == 2 * 2 + 11 * 4 - 1
    for image in (images.first, images.last):
        box = image.bounding_box()
        assert box is not None
        assert box["width"] > 100
        assert box["height"] > 100


def test_table_sorts_and_says_what_failed(page: Page):
    table = page.locator("#variants table").first
    table.locator("thead th").nth(2).get_by_role("button").click()
    values = table.locator("tbody tr").evaluate_all(
        "all => all.map(row => Number(row.cells[2].dataset.value))"
    )
    assert len(values) == 13
    assert values == sorted(values, reverse=True)
    assert table.locator(".swatch").count() == 13
    assert page.locator("td.best").count() >= 2
    failed = page.locator(".failed").inner_text()
    assert ": 1." in failed
    assert page.locator("#closer code").all_text_contents() == [
        "tensorboard --logdir 'runs/my pilot'",
        "spangym curves 'runs/my pilot'",
    ]
    assert page.locator(".headlines li").count() == 12
    page.locator("summary").first.click()
    assert page.locator("pre").inner_text().startswith('name = "speech"')


def test_page_needs_nothing_else_and_is_the_same_each_time(tmp_path: Path):
    rows = make_pilot(
        "text", VARIANTS[:4], seeds=1, failed=VARIANTS[3:4], examples=("one",), tokens=40
    )
    html = report_of(rows, tmp_path / "one")
    assert html == report_of(rows, tmp_path / "two")
    assert not re.search(r"""(src|href)=["'](?!#|data:image/png)""", html)
    assert "default-src 'none'" in html
    assert "img-src data:" in html
    assert "RuntimeError: &lt;b&gt;out of memory&lt;/b&gt;" in html
    assert "held-out text, by wall time" in html
    assert len(html) < 400_000


def test_little_is_reported_too(tmp_path: Path):
    rows = make_pilot(failed=VARIANTS, seeds=1, examples=())
    html = report_of(dataclasses.replace(rows, splits=()), tmp_path / "report.html")
    assert "No training is" in html
    assert "trainings: 13" in html
    assert html.count("Not drawn: ") >= 8
