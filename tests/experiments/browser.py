"""Reports in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}

# What is wide scrolls within its own frame.
BEYOND = """() => [...document.querySelectorAll("body *")].filter((each) =>
    !each.closest(".scroll, .legend, pre, code, svg, .symbols") &&
    each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML)"""
"""Elements that reach beyond the page."""

SMALLEST = """() => Math.min(...[...document.querySelectorAll("figure svg text")].map((each) =>
    parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().d /
    (Math.abs(each.getScreenCTM().b) > .01 ? Math.cos(Math.PI / 6) : 1)))"""
"""The smallest text of a figure, in pixels."""


def launched() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none."""
    found = CHROMIUM if CHROMIUM.is_file() else shutil.which("chromium")
    if not found:
        pytest.skip("there is no Chromium at /usr/bin/chromium or on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser: Browser, report: Path, width: int, height: int) -> Iterator[Page]:
    """The report in the browser, which must find nothing to complain about."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == [report.as_uri()]
