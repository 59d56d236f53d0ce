"""A Chromium without network, and pages as files on the disk."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from harness.reporting.html.embedded import chart_runtime
from harness.reporting.html.page import Place, run_page
from harness.reporting.html.site import index_page, site_run
from tests.report_content import PAYLOAD, content, hostile_content

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# What a browser that grants nothing has: any touch of storage or clipboard raises.
DENIED = """
for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
  Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
}
Object.defineProperty(navigator, "clipboard", { get() { throw new DOMException("denied", "NotAllowedError"); } });
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="Keep what is seen there, to be looked at.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or os.environ.get("CHROMIUM", "")
    if not chromium:
        pytest.fail("these tests open Chromium: apt-get install chromium, or name it by CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """A page that stands alone, a site, and the same of a hostile run."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, of in (("run", content()), ("hostile", hostile_content())):
        found[name] = folder / f"{name}.html"
        found[name].write_text(run_page(of), "utf-8")
        (folder / name / "machine").mkdir(parents=True)
        (folder / name / "charts.js").write_text(chart_runtime(), "utf-8")
        found[f"{name} of a site"] = folder / name / "machine/run.html"
        found[f"{name} of a site"].write_text(run_page(of, Place("../index.html", "../charts.js")), "utf-8")
        found[f"index of {name}"] = folder / name / "index.html"
        machine = PAYLOAD if name == "hostile" else "machine"
        index = index_page(of.name, [site_run(of, "machine/run.html", machine)], [of.name])
        found[f"index of {name}"].write_text(index, "utf-8")
    return found


@pytest.fixture
def opened(browser, files) -> Iterator[Callable[..., Page]]:
    """Open a page and wait until all of its charts are drawn; what went wrong is in `page.wrong`."""
    contexts = []

    def open_page(name: str, *, fragment: str = "", denied: bool = False, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.wrong = []
        page.on("console", lambda line: page.wrong.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda error: page.wrong.append(f"error: {error}"))
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        if denied:
            page.add_init_script(DENIED)
        page.goto(f"{files[name].as_uri()}{fragment}")
        page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
