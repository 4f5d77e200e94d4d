import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from rich.console import Console

from spangym.experiments.analysis.results import Results
from spangym.experiments.reports.report import RunInfo, save_report
from spangym.experiments.reports.result_tables import format_tables, rich_result_tables

from ..browser import BEYOND, SIZES, SMALLEST, launched, opened
from ..drawing import plot_data_of
from ..synthetic import make_results

LABELS = ("$x_1$", "<b>bold</b>", 'it\'s "quoted" & more', "long label " * 7)
ENVIRONMENTS = ("spangym/SpanBudget-v0", "<i>e</i>", "an environment whose name is long " * 2)
FAILED = (("<i>e</i>/ppo/seed-3", "RuntimeError: <script>alert(1)</script> & so on"),)
FACTS = RunInfo(
    title="tiny <study>",
    toml='name = "tiny"\nlabel = "<b>"\n' + "wide = 0 " * 40,
    manifest={
        "command": ["spangym", "compare", "a b.toml"],
        "started": "2026-01-02T03:04:05+00:00",
        "machine": {"cores": 2, "device": "cpu"},
        "weights_sha256": None,
    },
    folder="runs/my run",
)


@pytest.fixture(scope="module")
def odd() -> Results:
    return make_results(ENVIRONMENTS, LABELS, seeds=2, episodes=30, failed=FAILED, missing=2)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, odd: Results) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    save_report(path, plot_data_of(odd), FACTS)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    yield from opened(browser, report, *SIZES[request.param])


@pytest.fixture
def desktop(browser: Browser, report: Path) -> Iterator[Page]:
    yield from opened(browser, report, *SIZES["desktop"])


def test_nothing_is_wider_than_the_page(page: Page):
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(BEYOND) == []


def test_every_figure_is_visible_and_can_be_read(page: Page):
    figures = page.locator("figure svg")
    # Four statistics, the profiles, the pairs, the radar; and six panels an environment.
    assert figures.count() == 4 + 1 + 1 + 1 + 6 * len(ENVIRONMENTS)
    for figure in figures.all():
        box = figure.bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 100
    assert page.evaluate(SMALLEST) >= 10
    labels = page.locator("figure").evaluate_all("all => all.map(each => each.ariaLabel)")
    assert len(set(labels)) == len(labels)


def test_text_is_in_the_figures_as_it_was_given(desktop: Page):
    said = desktop.locator("figure svg text").all_text_contents()
    assert {"$x_1$", "<b>bold</b>", 'it\'s "quoted" & more'} <= set(said)
    assert desktop.locator("b, i, script").count() == 1
    assert desktop.title().startswith("tiny <study>")
    failed = desktop.locator(".failed").inner_text()
    assert "trials: 1" in failed
    assert "RuntimeError: <script>alert(1)</script> & so on" in failed
    assert ": 2." in failed


def test_ids_are_unique_and_baselines_lead_somewhere(desktop: Page):
    ids = desktop.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(set(ids)) == len(ids) > 100
    used = desktop.locator("a, use").evaluate_all(
        "all => all.map(each => each.getAttribute('href') || each.getAttribute('xlink:href'))"
    )
    assert {each.removeprefix("#") for each in used} <= set(ids)


def columns(page: Page, column: int) -> list[str]:
    """Values of a column of the first table of an environment, from top to bottom."""
    rows = page.locator("#environment-1 table").first.locator("tbody tr")
    return rows.evaluate_all("(all, n) => all.map(row => row.cells[n].dataset.value)", column)


def test_tables_sort_by_numbers_and_texts(desktop: Page):
    table = desktop.locator("#environment-1 table").first
    heads = table.locator("thead th")
    keys = heads.nth(5).get_by_role("button")
    assert heads.nth(5).get_attribute("aria-sort") is None
    keys.click()
    numbers = [float(value) for value in columns(desktop, 5)]
    # As texts, 55000 would come before 400000.
    assert numbers == sorted(numbers, reverse=True) != sorted(numbers)
    assert heads.nth(5).get_attribute("aria-sort") == "descending"
    keys.focus()
    desktop.keyboard.press("Enter")
    assert [float(value) for value in columns(desktop, 5)] == numbers[::-1]
    assert heads.nth(5).get_attribute("aria-sort") == "ascending"

    heads.nth(0).get_by_role("button").focus()
    desktop.keyboard.press("Space")
    labels = columns(desktop, 0)
    assert labels[:10] != columns(desktop, 5)[:10]
    assert labels.index("dqn" if "dqn" in labels else "fixed:0") < labels.index("random")
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    assert heads.nth(5).get_attribute("aria-sort") is None


def test_what_has_no_value_is_sorted_last(desktop: Page):
    table = desktop.locator("#environment-1 table").first
    cell = table.locator("tbody tr").nth(2).locator("td").nth(1)
    cell.evaluate("cell => { cell.dataset.value = 'nan'; }")
    button = table.locator("thead th").nth(2).get_by_role("button")
    for _ in range(2):
        button.click()
        assert columns(desktop, 2)[-1] == "nan"


def luminance(color: str) -> float:
    """Of a computed color, by WCAG 2."""
    parts = [float(each) / 255 for each in re.findall(r"[\d.]+", color)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_dark_and_light_are_both_readable(desktop: Page):
    backgrounds = set()
    for scheme in ("light", "dark"):
        desktop.emulate_media(color_scheme=scheme)
        background = desktop.evaluate("getComputedStyle(document.body).backgroundColor")
        backgrounds.add(background)
        # Numbers on colored cells are black or white in both.
        colors = desktop.locator(
            "figure svg text, p, td, dd, dt, li, h1, h2, h3, a, figcaption, th button"
        ).evaluate_all(
            "all => [...new Set(all.map(each => getComputedStyle(each)[each.ownerSVGElement ?"
            " 'fill' : 'color']))].filter(each => !['rgb(0, 0, 0)', 'rgb(255, 255, 255)']"
            ".includes(each))"
        )
        assert len(colors) >= 3
        for color in colors:
            low, high = sorted((luminance(color), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, color)
        lines = desktop.locator("figure svg path").evaluate_all(
            "all => [...new Set(all.filter(each => !each.closest('defs, clipPath')).map(each =>"
            " getComputedStyle(each).stroke))].filter(each => each.startsWith('rgb'))"
        )
        assert len(lines) >= len(LABELS) + 1
        for color in lines:
            low, high = sorted((luminance(color), luminance(background)))
            if low != high:
                assert (high + 0.05) / (low + 0.05) >= 2.8, (scheme, color)
    assert len(backgrounds) == 2


def test_commands_can_be_copied(desktop: Page):
    said = desktop.locator("#closer code").all_text_contents()
    assert said == [
        "tensorboard --logdir 'runs/my run'",
        "spangym curves 'runs/my run'",
        "spangym validate 'runs/my run'",
    ]
    desktop.locator("summary").first.click()
    assert desktop.locator("pre").inner_text().startswith('name = "tiny"\nlabel = "<b>"')


def test_the_page_needs_nothing_else(report: Path):
    html = report.read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!#)""", html)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert len(html) < 1_500_000


def test_same_rows_give_the_same_page(tmp_path: Path):
    rows = make_results(seeds=2, episodes=10)
    for name in ("one", "two"):
        save_report(tmp_path / name, plot_data_of(rows), FACTS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["one", "two"]
    assert (tmp_path / "one").stat().st_size < 500_000


@pytest.mark.parametrize("learners", [(), ("dqn",)])
@pytest.mark.parametrize("finished", [True, False])
def test_little_is_reported_too(tmp_path: Path, learners: tuple[str, ...], finished: bool):
    rows = make_results(learners=learners, seeds=1, episodes=4, failed=FAILED)
    if not finished:
        tables = {
            name: getattr(rows, name)[:0]
            for name in ("values", "episodes", "curves", "action_counts")
        }
        rows = dataclasses.replace(rows, **tables)
    save_report(tmp_path / "report.html", plot_data_of(rows), FACTS)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Not drawn: " in html
    assert ("No trial is" in html) != finished
    is_omitted = bool(re.search(r'training</dt><dd class="muted">', html))
    assert is_omitted == (not learners or not finished)
    assert "&lt;script&gt;alert" in html


UNSEEN = "\x1b[31m\x9b \u202e\u2066 \ud800\x00\x7f"


def test_what_cannot_be_seen_is_escaped_in_every_output(tmp_path: Path):
    """Labels of a stored run, errors of users' classes, and the study."""
    data = plot_data_of(
        make_results(
            (f"environment {UNSEEN}",),
            (f"one {UNSEEN}", f"two {UNSEEN}"),
            seeds=2,
            contents=(f"content {UNSEEN}", "other"),
            failed=((f"job {UNSEEN}", f"ValueError: {UNSEEN}"),),
        )
    )
    manifest = {"command": ["spangym", UNSEEN], "started": UNSEEN, "machine": {"cpu": UNSEEN}}
    facts = RunInfo(UNSEEN, f"name = 1\nlabel = '{UNSEEN}'", manifest, UNSEEN)
    save_report(tmp_path / "report.html", data, facts)
    tables = [format_tables(data, "markdown"), format_tables(data, "latex")]
    console = Console(file=io.StringIO(), width=200)
    for table in rich_result_tables(data):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    report = (tmp_path / "report.html").read_text("utf-8")
    for text in (report, *tables, console.file.getvalue()):
        assert not {*UNSEEN} & {*text} - {*"[31m "}
        assert "x1b" in text
