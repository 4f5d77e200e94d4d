"""The built documentation site; `make test` builds it before the tests run.

After a change of the code, `make docs` comes first here too.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from spangym.agents.agent_names import BUILTIN_AGENTS
from spangym.agents.registry import fixed_action_of
from spangym.envs.registration import ENVIRONMENTS
from spangym.experiments.cli.app import COMMANDS
from spangym.experiments.pilot.load_pilot_study import builtin_pilot_studies
from spangym.experiments.studies.load_study import builtin_studies

from .experiments.browser import launched

SITE = Path(__file__).parents[1] / "build" / "docs"

pytestmark = pytest.mark.skipif(
    not (SITE / "index.html").is_file(), reason="the site is not built: make docs"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from launched()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


def heading_ids(page: str) -> set[str]:
    return set(re.findall(r'<section id="([^"]+)"', (SITE / page).read_text()))


def test_pages_load_nothing_from_the_network():
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*"
        r"|<link\b(?![^>]*rel=\"(?:canonical|author)\")[^>]*href=\"(?:https?:)?//[^\"]*"
        r"|@import[^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]*"
    )
    found = {
        str(path.relative_to(SITE)): loads.findall(path.read_text("utf-8"))
        for path in [*SITE.rglob("*.html"), *SITE.rglob("*.css")]
    }
    assert {path: each for path, each in found.items() if each} == {}


def test_references_have_all_that_exists():
    assert {f"spangym-{each}" for each in COMMANDS} <= heading_ids("reference/command-line.html")
    studies = heading_ids("reference/studies.html") | heading_ids("reference/pilot-studies.html")
    assert {*builtin_studies(), *builtin_pilot_studies()} <= studies
    text = (SITE / "reference" / "agents.html").read_text()
    names = {each for each in BUILTIN_AGENTS if fixed_action_of(each) is None}
    assert names <= set(re.findall(r"<h2>([\w-]+)<", text))
    words = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    for name in ENVIRONMENTS:
        slug = re.sub(words, "-", name.removeprefix("spangym/")).lower()
        assert (SITE / f"reference/environments/{slug.removesuffix('-v0')}.html").is_file()


def test_search_works_offline(page: Page):
    page.goto((SITE / "search.html").as_uri() + "?q=threshold")
    page.wait_for_selector("#search-results ul.search li")
    page.wait_for_function("document.querySelectorAll('#search-results a').length > 3")
    links = page.eval_on_selector_all("#search-results a", "all => all.map(each => each.href)")
    assert any("reference/agents.html" in each for each in links)


# Code, tables and figures scroll inside the page.
@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "environments.html",
        "guides/own-refiner.html",
        *("reference/agents.html", "reference/command-line.html", "reference/studies.html"),
        *("reference/api/attention.html", "reference/environments/span-control.html"),
    ],
)
def test_a_page_fits_a_phone(page: Page, name: str):
    page.goto((SITE / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
