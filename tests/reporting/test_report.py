"""What stands in a page: escaped, in its section, and the same in charts and tables. Nothing is drawn here."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from harness.reporting.html import charts, embedded, figures, learning, shapes
from harness.reporting.html.groups import case_groups, numbered
from harness.reporting.html.page import Place, RunContent, run_page
from harness.reporting.html.site import index_page, site_run
from harness.reporting.html.verdict import verdict_of
from tests.report_content import BATCHES, ENGINES, PAYLOAD, content, hostile_content

HERE = Place("../index.html", "../charts.js")  # the page of a site lacks only the megabyte of its chart runtime
LIGHT, DARK = "#ffffff", "#14171c"


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, texts, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def specs(self) -> dict:
        [script] = [text for text in self.scripts if text.startswith("{")]
        return json.loads(script)


@pytest.fixture(scope="module")
def run() -> RunContent:
    return content()


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run_page(run, HERE))


@pytest.fixture(scope="module")
def hostile() -> RunContent:
    return hostile_content()


@pytest.fixture(scope="module")
def hostile_page(hostile) -> Page:
    return Page(run_page(hostile, HERE))


# Strangers' texts


def test_a_payload_in_every_text_makes_no_element_no_attribute_and_no_script_of_its_own(page, hostile_page):
    """The same elements, whatever the texts: a chart more or less, of cases that are told apart by what they are."""
    assert {tag for tag, _ in hostile_page.elements} == {tag for tag, _ in page.elements}
    assert len(hostile_page.scripts) == len(page.scripts) == 3  # data, runtime, the page's own
    assert [tag for tag, attributes in hostile_page.elements if any(name.startswith("on") for name in attributes)] == []
    assert "window.__pwned" in hostile_page.text


def test_no_link_leads_anywhere_but_within_the_page_and_the_site(hostile, hostile_page):
    index = Page(index_page(PAYLOAD, [site_run(hostile, f"{PAYLOAD}/{PAYLOAD}.html", PAYLOAD)], [PAYLOAD]))
    for of in (hostile_page, index):
        links = [attributes["href"] for tag, attributes in of.elements if tag in ("a", "link")]
        assert {re.match(r"#|\./|\.\./index\.html$|data:,$", link) is not None for link in links} == {True}
        assert [tag for tag, _ in of.elements if tag in ("img", "svg", "iframe", "object", "base", "form")] == []


def test_json_in_a_script_ends_no_script_and_is_the_same_when_it_is_read():
    value = {PAYLOAD: [PAYLOAD, "\u2028\u2029</ScRiPt>", 1.5, None]}
    text = str(embedded.as_json(value))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError, match="JSON"):
        embedded.as_json({"value": float("nan")})


def test_a_template_is_no_place_where_a_text_is_taken_for_code(hostile_page):
    assert "{{7*7}}" in hostile_page.text


def test_a_field_or_an_expression_of_a_chart_never_holds_a_strangers_text(hostile_page):
    def walk(part, path=()):
        if isinstance(part, dict):
            for name, value in part.items():
                assert "__pwned" not in name
                yield from walk(value, (*path, name))
        elif isinstance(part, list):
            for value in part:
                yield from walk(value, path)
        elif isinstance(part, str) and "__pwned" in part:
            yield path

    places = {
        path[0] if path[0] == "datasets" else path[-1] for each in hostile_page.specs().values() for path in walk(each)
    }
    assert places == {"datasets", "domain"}


def test_the_policy_names_the_hash_of_each_script_and_no_address():
    policy = embedded.policy(["let a = 1"], beside=False)
    assert "'sha256-E9IQqLbDbbfWLyVTG/4YTp8qwwnfM/OJRGKsV5p+zBc='" in policy or "sha256-" in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]


# What is there


def test_a_page_says_the_verdict_first_and_names_what_is_wrong(run, page):
    verdict = verdict_of(run.summary)
    assert verdict.sign == "✗"
    assert re.fullmatch(r"5 of \d+ targets missed; 1 of 30 cases failed\.|\d+ of \d+ targets missed.*", verdict.text)
    assert page.text.index(verdict.text) < page.text.index("line/manual/cpu/float32/b1")
    crashed = "line/compile/cpu/float32/b10000"
    [told] = [each.text for each in verdict.remarks if each.case_id == crashed and each.word == "crashed"]
    assert told == "killed by signal 9: out of luck"
    assert {each.word for each in verdict.remarks} >= {"missed", "crashed"}


@pytest.mark.parametrize(
    ("changes", "sign", "text"),
    [
        ({}, "✓", "All 4 targets met; none of 2 cases failed."),
        ({"targets": "met: a; undecided: b: 1"}, "?", "1 of 4 targets undecided; none of 2 cases failed."),
        ({"targets": "missed: a; undecided: b: 1"}, "✗", "1 of 4 targets missed, 1 undecided; none of 2 cases failed."),
        ({"outcome": "crashed", "reason": "so", "targets": ""}, "✗", "All 2 targets met; 1 of 2 cases failed."),
        ({"outcome": "unsupported", "reason": "so", "targets": ""}, "✓", "All 2 targets met; none of 2 cases failed."),
    ],
)
def test_the_verdict_counts_targets_and_failed_cases_in_words(run, changes, sign, text):
    table = run.summary.head(2).assign(outcome="ok", reason="", targets="met: a: 1; met: b: 2")
    for name, value in changes.items():
        table.loc[0, name] = value
    verdict = verdict_of(table)
    assert (verdict.sign, verdict.text) == (sign, text)


def test_every_case_has_a_row_with_a_link_to_itself(run, page):
    for case_id in run.summary["case_id"]:
        assert f"case={case_id}" in page.ids()
        assert f"#case={case_id}" in [attributes.get("href") for _, attributes in page.elements]


def test_no_id_is_there_twice(page, hostile_page):
    for of in (page, hostile_page):
        assert [name for name, times in Counter(of.ids()).items() if times > 1] == []


ALL = {
    *("verdict", "cases", "steps", "ratios", "losses", "phases", "disturbance"),
    *("crossover", "comparison", "history", "machine"),
}


@pytest.mark.parametrize(
    ("without", "absent"),
    [
        ({}, set()),
        ({"compared": None}, {"comparison"}),
        ({"history": None}, {"history"}),
        ({"convergence": None}, {"losses"}),
        ({"crossovers": ()}, {"crossover"}),
        ({"facts": {}}, set()),
    ],
    ids=["all", "no base", "no history", "no seeds", "no rounds", "no machine"],
)
def test_a_section_is_there_where_there_is_something_to_tell(run, without, absent):
    text = run_page(replace(run, **without), HERE)
    assert ALL & set(Page(text).ids()) == ALL - absent


def test_the_floor_is_in_the_table_only_where_it_was_measured(run, page):
    assert "× floor" in page.text
    without = run.summary.assign(floor_ns=float("nan"), above_floor=float("nan"), bound_by="")
    assert "× floor" not in Page(run_page(replace(run, summary=without), HERE)).text


def test_a_run_in_which_nothing_has_a_time_is_a_page_without_charts(run):
    timeless = run.summary.iloc[[14]].assign(outcome="crashed", threads=float("nan"))
    text = Page(run_page(RunContent("x", timeless), HERE))
    assert text.specs() == {}
    assert "1 of 1 cases failed" in text.text


# Charts


def test_a_chart_has_the_numbers_of_the_table_in_seconds(run):
    [group, _] = case_groups(run.summary)
    chart = charts.step_times(group, numbered([group]))
    drawn = {(row["name"], row["x"]): row for row in chart.spec["datasets"]["rows"]}
    assert len(drawn) == len(ENGINES) * len(BATCHES) - 1  # one crashed
    for row in group.rows:
        if row["outcome"] == "ok":
            mine = drawn[(row["engine"], row["batch_size"])]
            assert mine["value"] == pytest.approx(row["step_ns"] / 1e9, rel=1e-4)
            assert mine["low"] == pytest.approx(row["step_ns_low"] / 1e9, rel=1e-4)
            assert mine["high"] == pytest.approx(row["step_ns_high"] / 1e9, rel=1e-4)
    assert [row["x"] for row in chart.spec["datasets"]["dashed"]] == list(BATCHES)
    assert len(chart.rows) == len(drawn)


def test_one_batch_size_is_a_row_for_each_engine_and_not_a_line_of_one_point(run):
    [_, deep] = case_groups(run.summary)
    chart = charts.step_times(deep, numbered([deep]))
    assert chart.spec["layer"][-1]["encoding"]["y"]["field"] == "row"
    assert {row["row"] for row in chart.spec["datasets"]["rows"]} == set(ENGINES)


def test_every_seed_is_a_tick_until_they_are_too_many_and_deciles_stand_for_them(run, monkeypatch):
    [_, deep] = case_groups(run.summary)
    seeds = learning.final_losses(run.convergence)
    each = learning.losses(deep, numbered([deep]), seeds)
    assert len(each.spec["datasets"]["rows"]) == 16 * len(ENGINES)
    assert len(each.rows) == len(ENGINES)
    monkeypatch.setattr(learning, "_MOST_TICKS", 20)
    few = learning.losses(deep, numbered([deep]), seeds)
    assert len(few.spec["datasets"]["rows"]) == 11 * len(ENGINES)
    assert "tenth of the seeds" in few.note
    assert few.rows == each.rows


def test_losses_by_epoch_are_a_line_of_each_case_and_a_band_of_each_batch_size(run):
    [line, _] = case_groups(run.summary)
    chart = learning.curves(line, learning.by_case(run.epochs))
    rows, bands = chart.spec["datasets"]["rows"], chart.spec["datasets"]["dashed"]
    trained = [row for row in line.rows if row["outcome"] == "ok"]
    assert len({row["line"] for row in rows}) == len(trained) > len(BATCHES)
    assert {row["name"] for row in rows} == {f"batch size {size:,}" for size in BATCHES}
    assert len(rows) == 20 * len(trained)
    assert len(bands) == 20 * len(BATCHES)
    first = run.epochs[run.epochs["case_id"] == trained[0]["case_id"]].iloc[0]
    assert (rows[0]["x"], rows[0]["value"]) == (1, pytest.approx(first["loss_p50"], rel=1e-4))
    assert (bands[0]["low"], bands[0]["high"]) == pytest.approx((first["loss_p05"], first["loss_p95"]), rel=1e-4)
    assert chart.rows[0][-1] == "5% (1), 50% (10), 100% (20)"


def test_of_many_cases_only_the_curves_of_autograd_are_drawn(run, monkeypatch):
    [line, _] = case_groups(run.summary)
    monkeypatch.setattr(learning, "_MOST_CURVES", len(BATCHES))
    chart = learning.curves(line, learning.by_case(run.epochs))
    assert {row["line"].partition(",")[0] for row in chart.spec["datasets"]["rows"]} == {"autograd"}


def test_a_run_of_before_there_were_epochs_has_no_curves_and_all_else(run):
    before = charts.run_charts(run.summary, run.convergence)
    assert before.curves == ()
    assert len(before.losses) == 2


def test_a_floor_that_would_leave_the_engines_no_room_is_said_and_not_drawn(run):
    [line, _] = case_groups(run.summary)
    near = charts.step_times(line, numbered([line]))
    assert near.spec["datasets"]["dashed"]
    far = replace(line, rows=tuple({**row, "floor_ns": row["floor_ns"] / 1e4} for row in line.rows))
    chart = charts.step_times(far, numbered([line]))
    assert chart.spec["datasets"]["dashed"] == []
    assert "dashed" not in chart.note
    assert "The floor, " in chart.note


def test_a_picture_has_colours_and_a_size_of_its_own_and_leaves_texts_as_they_are(run):
    [_, deep] = case_groups(run.summary.assign(engine="currentColor"))
    chart = charts.step_times(deep, numbered([deep]))
    picture = figures.as_picture(chart)
    assert "currentColor" not in json.dumps(picture["config"]) + json.dumps(picture["layer"][0])
    assert picture["datasets"]["rows"][0]["name"] == "currentColor"
    assert (picture["width"], picture["config"]["background"]) == (640, "white")
    assert chart.spec["config"]["background"] == "transparent"


@pytest.mark.parametrize("background", [LIGHT, DARK])
@pytest.mark.parametrize("colour", shapes.COLOURS)
def test_a_colour_can_be_told_from_the_page(colour, background):
    lighter, darker = sorted((_luminance(colour), _luminance(background)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def _luminance(colour: str) -> float:
    # https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# The index


def test_the_index_names_machines_runs_commits_and_cases_and_leads_to_each(run):
    other = replace(run, name="20261123T000000Z-other", summary=run.summary.head(3).assign(commit="ab" * 20))
    runs = [site_run(run, "amd/new.html", "amd"), site_run(other, "amd/old.html", "amd")]
    index = Page(index_page("Results", runs, ["it is broken"]))
    links = [attributes.get("href") for tag, attributes in index.elements if tag == "a"]
    assert {"./amd/new.html", "./amd/old.html", "./amd/new.html#case=line/manual/cpu/float32/b1"} <= set(links)
    assert "./amd/old.html#case=line/manual/cpu/float32/b1" not in links  # a case leads to its newest run
    for told in ("9d137a38a0", "abababab", "it is broken", "amd"):
        assert told in index.text
    assert {"machine-table", "run-table", "commit-table", "case-table"} <= set(index.ids())
