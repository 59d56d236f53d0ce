"""Reports in a real browser."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe

ALL = ("run", "run of a site", "index of run", "hostile", "hostile of a site", "index of hostile")


def drawn(page) -> tuple[int, int]:
    """Return how many charts there are, and how many have marks."""
    return page.evaluate(
        "[document.querySelectorAll('[data-chart]').length,"
        " [...document.querySelectorAll('[data-chart]')].filter(e => e.querySelector('svg path')).length]"
    )


def column(page, table: str, head: str) -> list[str]:
    """Return the visible cells of a column."""
    return page.evaluate(
        """([table, head]) => {
          const rows = document.getElementById(table).tHead.rows[0].cells;
          const at = [...rows].findIndex(cell => cell.textContent.trim() === head);
          return [...document.getElementById(table).tBodies[0].rows].filter(row => !row.hidden)
            .map(row => row.cells[at].textContent.trim());
        }""",
        [table, head],
    )


@pytest.mark.parametrize("denied", [False, True], ids=["granted", "denied"])
@pytest.mark.parametrize("name", ALL)
def test_a_page_opens_from_disk_without_an_error_or_a_request(opened, files, name, denied):
    page = opened(name, denied=denied)
    assert page.wrong == []
    of_itself = {files[name].as_uri(), (files[name].parent.parent / "charts.js").as_uri(), "data:,"}
    assert set(page.requested) <= of_itself
    charts, there = drawn(page)
    assert there == charts
    assert (charts > 5) is ("index" not in name)


@pytest.mark.parametrize("name", [name for name in ALL if "hostile" in name])
def test_a_payload_in_every_text_stays_inert(opened, name):
    page = opened(name)
    for head in page.locator("thead button").all()[:12]:
        head.click()
    if "index" not in name:
        # The tip over a mark shows a stranger's text as well.
        mark = page.locator("[data-chart] .mark-symbol.role-mark path").first
        mark.scroll_into_view_if_needed()
        mark.hover(force=True)
        page.wait_for_selector("#vg-tooltip-element.visible")
        assert "__pwned" in page.locator("#vg-tooltip-element").inner_text()
        page.locator("tbody th a").nth(1).click()
    assert page.evaluate("window.__pwned") is None
    assert page.locator("main img, main script, main iframe").count() == 0
    assert page.wrong == []


def test_the_policy_stops_a_script_that_gets_in_all_the_same(opened):
    page = opened("run")
    page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'window.__pwned = 1';
          document.body.append(script);
        }"""
    )
    assert page.evaluate("window.__pwned") is None
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in line for line in page.wrong)


def test_a_column_sorts_up_and_down_with_what_is_empty_last(opened):
    page = opened("run")
    before = column(page, "case-table", "case")
    button = page.locator("#case-table thead button", has_text="step")
    button.click()
    up = column(page, "case-table", "step")
    assert page.locator("#case-table th[aria-sort=ascending]").inner_text().startswith("step")
    button.click()
    down = column(page, "case-table", "step")
    assert up[-1] == down[-1] == ""
    assert up[:-1] == down[:-1][::-1]
    units = {"ns": 1, "µs": 1e3, "ms": 1e6}
    times = [float(text.split()[0]) * units[text.split()[1]] for text in up[:-1]]
    assert times == sorted(times)
    assert sorted(column(page, "case-table", "case")) == sorted(before)


def test_the_filter_takes_all_words_and_what_is_wrong(opened):
    page = opened("run")
    count = len(column(page, "case-table", "case"))
    search = page.get_by_label("Filter").first
    search.fill("line_deep fused")
    assert column(page, "case-table", "case") == ["line_deep/fused/cpu/float32/b100"]
    assert page.locator("output").first.inner_text() == f"1 of {count} shown"
    search.fill("")
    page.get_by_label("only what is not ok or not met").check()
    wrong = column(page, "case-table", "case")
    assert "line/compile/cpu/float32/b10000" in wrong
    assert "line/manual/cpu/float32/b1" not in wrong


def test_the_filter_is_kept_when_the_page_is_opened_again(opened):
    page = opened("run")
    page.get_by_label("Filter").first.fill("fused")
    page.reload()
    assert page.get_by_label("Filter").first.input_value() == "fused"


def test_a_link_to_a_case_shows_its_row_even_where_it_was_filtered_away(opened):
    case_id = "line_deep/compile_step/cpu/float32/b100"
    page = opened("run", fragment=f"#case={case_id}")
    row = page.locator("tr:target")
    assert row.locator("th").inner_text() == case_id
    assert row.evaluate("e => e.getBoundingClientRect().top >= 0 && e.getBoundingClientRect().bottom <= innerHeight")
    page.get_by_label("Filter").first.fill("fused")
    assert not row.is_visible()
    page.evaluate("location.hash = ''")
    page.evaluate(f"location.hash = '#case={case_id}'")
    page.wait_for_selector("tr:target")


@pytest.mark.parametrize("denied", [False, True], ids=["granted", "denied"])
def test_a_click_on_a_case_says_where_its_link_is(opened, denied):
    page = opened("run", denied=denied)
    page.locator("#case-table tbody th a").first.click()
    said = page.locator("#status:not(:empty)")
    said.wait_for()
    assert "ink to this case" in said.inner_text()
    assert page.evaluate("location.hash").startswith("#case=line/")
    assert page.wrong == []


def test_everything_is_reached_by_the_keyboard_alone(opened):
    page = opened("run")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        of = (
            "(e => `${e.tagName} ${e.closest('thead') ? 'sort' : e.className || e.type || ''}`)(document.activeElement)"
        )
        reached.append(page.evaluate(of))
        if reached[-1] == "BUTTON sort":
            break
    assert "INPUT search" in reached
    assert "INPUT checkbox" in reached
    assert "DIV wide" in reached
    page.keyboard.press("Space")
    assert page.locator("#case-table th[aria-sort=ascending]").count() == 1
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "index of run"])
def test_axe_finds_nothing_serious(opened, name, width, scheme):
    page = opened(name, color_scheme=scheme, viewport={"width": width, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "index of run", "hostile"])
def test_nothing_is_wider_than_the_screen(opened, tmp_path, request, name, width, scheme):
    page = opened(name, color_scheme=scheme, viewport={"width": width, "height": 844})
    if folder := request.config.getoption("--screenshots"):
        page.screenshot(path=f"{folder}/{name.replace(' ', '-')}-{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = "e => e.getBoundingClientRect().right <= innerWidth + 1"
    assert page.evaluate(f"[...document.querySelectorAll('[data-chart] svg')].every({inside})")


def test_a_print_has_all_rows_and_charts_in_black_on_white(opened, request):
    page = opened("run", color_scheme="dark")
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('.chart')).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.wide')).overflowX") == "visible"
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    if folder := request.config.getoption("--screenshots"):
        with open(f"{folder}/print.pdf", "wb") as file:  # noqa: PTH123
            file.write(printed)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30
