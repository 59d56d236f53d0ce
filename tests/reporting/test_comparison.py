import io
import json
import math
import os
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness.comparing.compare import compare_runs
from harness.comparing.compared import CaseResult, Compared, Disturbed, Status
from harness.comparing.run import Run
from harness.comparing.sessions import SessionSpread
from harness.reporting.comparison import annotations, as_json, as_markdown, show_comparison, step_summary

BASE, NEW = "ab" * 20, "cd" * 20
ENGINES = ("manual", "autograd", "compile", "compile_step")
HOSTILE = "a|b`c`<img src=x>\n@everyone #12 [x](http://evil.example) \x1b[31m,:%"


@pytest.fixture(autouse=True)
def _nothing_forces_colour(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def run(name: str, factors: dict[str, float] | None = None, *, rounds: int = 10, **columns: Any) -> Run:
    """A run of `line` at batch 100 by every engine, each spreading by 1 %; factors: of an engine's step time."""
    noise = np.random.default_rng(0 if name == "base" else 1)
    common = {"outcome": "ok", "reason": "", "threads": 1, "workload_digest": "d", "environment": ""}
    common |= {"run_id": name, "session": "both", "dirty": False}
    common |= {"commit": BASE if name == "base" else NEW, "machine": "amd-epyc-2c", "fingerprint": "c0ffee"}
    rows = [
        {
            **common,
            "case_id": case(engine),
            "round": number,
            "step_ns": 1e5 * (factors or {}).get(engine, 1.0) * math.exp(noise.normal(0, 0.01)),
            **columns,
        }
        for engine in ENGINES
        for number in range(rounds)
    ]
    return Run(name, pd.DataFrame(rows))


def case(engine: str) -> str:
    return f"line/{engine}/cpu/float32/b100"


def with_outcome(side: Run, engine: str, outcome: str, reason: str) -> Run:
    table = side.measurements.copy()
    rows = table["case_id"] == case(engine)
    table.loc[rows, ["outcome", "reason"]] = outcome, reason
    table.loc[rows, "step_ns"] = math.nan
    return replace(side, measurements=table)


def firm(**factors: float) -> Compared:
    return compare_runs(run("base"), run("new", factors))


def advisory(sessions: SessionSpread | None = None, *, commit: str = NEW, **factors: float) -> Compared:
    return compare_runs(run("base"), run("new", factors, session="later", commit=commit), sessions=sessions)


def shown(compared: Compared, *, width: int = 180, terminal: bool = False, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal or None)
    show_comparison(console, compared, **options)
    return console.file.getvalue()


def compared_of(*cases: CaseResult, **changes: Any) -> Compared:
    fields = {"aggregate": None, "firm": True, "paired": True} | changes
    return Compared(run("base"), run("new"), cases, **fields)


SAME = CaseResult("a/same", Status.SAME, "", 1e5, 1e5, 0.001, -0.01, 0.011, 0.9, 0.02, 0.01, "noise", 10, 10)
OPEN = replace(SAME, case_id="a/open", status=Status.UNDECIDED, change=0.015, rounds_needed=14.0)


def test_what_the_clock_had_of_the_spread_is_said_where_it_was_taken_out() -> None:
    assert "is 40% of what it was" in shown(compared_of(SAME, clocked=0.4))
    assert "is 40% of what it was" in as_markdown(compared_of(SAME, clocked=0.4))
    assert "clock" not in shown(compared_of(SAME)) + as_markdown(compared_of(SAME))
    assert as_json(compared_of(SAME, clocked=0.4))["clocked"] == 0.4


def test_what_a_neighbour_spoilt_is_said_by_side_with_what_became_of_it() -> None:
    spoilt = compared_of(SAME, disturbed=Disturbed(left_out=3, kept=7, base=4, new=6))
    for text in (shown(spoilt), as_markdown(spoilt)):
        assert "beside 4 processes of the base and 6 of the new side a neighbour had the core all along" in text
        assert "3 left out, 7 kept, as they are more than half" in text
    assert "kept" not in shown(compared_of(SAME, disturbed=Disturbed(left_out=3, base=3)))
    assert "neighbour" not in shown(compared_of(SAME)) + shown(spoilt, only_wrong=True)
    assert as_json(spoilt)["disturbed"] == {"left_out": 3, "kept": 7, "base": 4, "new": 6}


# The verdict


def test_the_first_line_says_how_many_of_how_many_regressed_and_names_the_worst_first() -> None:
    first = shown(firm(manual=1.1, autograd=1.3)).splitlines()[0]
    assert re.fullmatch(rf"2 of 4 cases regressed: {case('autograd')} \+3\d\.\d%, {case('manual')} \+\d+\.\d%", first)


def test_without_a_regression_the_first_line_counts_the_others() -> None:
    first = shown(compared_of(SAME, replace(SAME, case_id="b"), OPEN)).splitlines()[0]
    assert first == "no regression: 2 same, 1 undecided"


def test_where_more_than_half_is_undecided_the_first_line_says_how_much_of_how_many() -> None:
    page = as_markdown(compared_of(SAME, OPEN, replace(OPEN, case_id="b")))
    assert page.startswith("### ? undecided: 2 of 3 cases (1 same)\n")


def test_where_nothing_is_decided_it_is_not_called_no_regression() -> None:
    few = compare_runs(run("base", rounds=2), run("new", {"manual": 1.05}, rounds=2))
    assert few.of(Status.UNDECIDED) == few.cases
    text = shown(few)
    assert text.startswith("undecided: 4 of 4 cases\n")
    assert "2 rounds a side are too few" in text
    assert "no regression" not in as_markdown(few)


def test_where_no_case_has_two_times_it_says_so() -> None:
    failing = CaseResult("a", Status.FAILING, "crashed: killed")
    assert shown(compared_of(failing)).startswith("nothing to compare: no case has a time on both sides (1 failing)")


def test_a_case_that_is_not_right_any_more_stands_before_slower_ones() -> None:
    crashed = with_outcome(run("new", {"autograd": 1.3}), "manual", "crashed", "killed by SIGSEGV")
    text = shown(compare_runs(run("base"), crashed))
    assert text.startswith(f"1 of 4 cases lost, 1 regressed: {case('manual')} lost, {case('autograd')} +3")
    assert f"✗ lost {case('manual')}: crashed: killed by SIGSEGV" in text.splitlines()


def test_many_regressions_are_counted_and_only_three_named_in_the_first_line() -> None:
    first = shown(firm(**dict.fromkeys(ENGINES, 1.2))).splitlines()[0]
    assert first.startswith("4 of 4 cases regressed: ")
    assert first.endswith(" and 1 more")


# The table


def test_a_row_has_both_times_the_change_with_its_interval_the_verdict_margin_and_whence_the_spread() -> None:
    text = shown(compare_runs(run("base"), run("new", {"manual": 1.3}), spreads={case("manual"): 0.0123}))
    row = next(line for line in text.splitlines() if line.lstrip().startswith(case("manual")) and "✗" in line)
    assert re.search(r"\d+(\.\d)? µs +1[23]\d µs +\+\d\d\.\d% \[\+\d\d\.\d%, \+\d\d\.\d%\] +✗ regressed", row)
    assert re.search(r" 10 +2\.0% +1\.2% noise", row)


def test_what_got_slower_is_at_the_top_of_the_table() -> None:
    rows = [line for line in shown(firm(compile_step=1.2)).splitlines() if line.startswith(" line/")]
    assert rows[0].split()[0] == case("compile_step")
    assert [row.split()[0] for row in rows[1:]] == [case(engine) for engine in ENGINES[:3]]


def test_an_undecided_case_says_how_many_rounds_it_needs_and_the_line_below_what_to_type() -> None:
    text = shown(compared_of(SAME, OPEN, replace(OPEN, case_id="b", rounds_needed=30.0)))
    assert re.search(r"a/open .* \? undecided +14 rounds", text)
    assert "--rounds 14 would decide 1 of 2 undecided cases, --rounds 30 2 of them" in text


def test_a_case_that_no_number_of_rounds_would_decide_is_named() -> None:
    text = shown(compared_of(OPEN, replace(OPEN, case_id="b/hopeless", rounds_needed=math.nan)))
    assert "> 200 rounds" in text
    assert "not even 200 rounds a side would decide b/hopeless" in text


def test_the_geometric_mean_has_its_interval() -> None:
    assert re.search(r"geometric mean over 4 cases: \+\d\.\d% \[\+\d\.\d%, \+\d\.\d%\]", shown(firm(manual=1.3)))


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_terminal_loses_columns_but_neither_verdict_nor_change(width: int) -> None:
    long = "line/" + "x" * 150 + "/cpu/float32/b100"
    text = shown(compared_of(replace(SAME, case_id=long, status=Status.REGRESSED, change=0.1)), width=width)
    assert "✗ regressed" in text
    assert "+10.0% [-1.0%, +1.1%]" in text
    assert text.splitlines()[0].startswith("1 of 1 case regressed")
    table = text.split("\n", 2)[2]
    assert max(map(len, table.splitlines())) <= width
    assert "x" * 150 in table.replace("✗ regressed", "").replace("+10.0% [-1.0%, +1.1%]", "").translate(
        {ord(each): None for each in " \n─"}
    )


def test_a_factor_of_ten_and_more_is_written_as_one() -> None:
    huge = replace(SAME, status=Status.REGRESSED, change=1e15, low=math.nan, high=math.nan)
    assert "× 1e+15" in shown(compared_of(huge))


def test_cases_of_one_side_only_changed_and_failing_ones_are_named_with_their_reasons() -> None:
    statuses = (Status.NEW, Status.MISSING, Status.CHANGED, Status.FAILING, Status.FIXED, Status.CONVERGES_LESS)
    cases = [CaseResult(f"a/{status}", status, f"why {status}") for status in statuses]
    text, page = shown(compared_of(SAME, *cases)), as_markdown(compared_of(SAME, *cases))
    for each in cases:
        assert f"{each.case_id}: {each.reason}" in text
        assert f"`{each.case_id}`" in page
    assert "✗ converges less a/converges_less" in text


def test_warnings_and_what_was_varied_are_shown() -> None:
    compared = compared_of(SAME, varied=("torch: 2.12 and 2.13",), warnings=("system differs: a and b",))
    for text in (shown(compared), as_markdown(compared)):
        assert "torch: 2.12 and 2.13" in text
        assert "system differs: a and b" in text


def test_only_what_is_wrong_is_nothing_where_nothing_is() -> None:
    assert shown(compared_of(SAME, CaseResult("a", Status.NEW)), only_wrong=True) == ""
    text = shown(firm(manual=1.3), only_wrong=True)
    assert text.startswith("1 of 4 cases regressed")
    assert "= same" not in text


def test_words_stand_beside_colour_and_a_pipe_gets_no_escape_codes() -> None:
    assert re.search(r"\x1b\[31m✗ regressed", shown(firm(manual=1.3), terminal=True))
    assert "\x1b" not in shown(firm(manual=1.3))


# Two sessions


def test_two_sessions_are_advisory_and_say_from_what_assumption_and_margin() -> None:
    text = shown(advisory(manual=1.3))
    assert text.startswith(f"1 of 4 cases slower (advisory): {case('manual')} +3")
    assert re.search(rf"{case('manual')} .* µs .* \+3\d\.\d% \[.*\] +✗ slower", text)
    assert (
        "differ by 2% by themselves (assumed, since fewer than 5 other sessions stored here measured these cases)"
        in text
    )
    assert re.search(r"beyond 8\.9% (to \d+\.\d%, by case, )?is called", text)
    assert "regressed" not in text


def test_two_sessions_without_a_difference_are_within_what_sessions_differ_by() -> None:
    first = shown(advisory()).splitlines()[0]
    assert first == "nothing slower (advisory): 4 within what sessions differ by"


def test_measured_sessions_say_over_how_many() -> None:
    text = shown(advisory(SessionSpread(7, 0.013, 0.004, 4), manual=1.3))
    assert "differ by 1.3% by themselves, each case by 0.4% more (measured over 7 sessions)" in text


def test_the_command_that_settles_it_names_both_commits_and_the_cases_in_question() -> None:
    command = f"harness ab {BASE[:12]} {NEW[:12]} --workload line --engine manual --batch-size 100"
    compared = advisory(manual=1.3)
    assert shown(compared).splitlines()[-1] == f"the firm answer: {command}"
    assert command in as_markdown(compared)
    assert "harness ab" not in shown(firm(manual=1.3))


@pytest.mark.parametrize(("ranks", "flag"), [("", ""), ("/r2", " --ranks 2")])
def test_the_command_names_device_dtype_threads_and_ranks_where_they_were_chosen(ranks, flag) -> None:
    case_id = f"mine.py:Mine/manual/cuda:0/float64/b100/t3{ranks}"
    sides = [run(name, session=name, case_id=case_id) for name in ("base", "new")]
    sides = [replace(side, measurements=side.measurements.drop_duplicates("round")) for side in sides]
    flags = "--workload mine.py:Mine --engine manual --device cuda:0 --dtype float64 --batch-size 100 --threads 3"
    assert shown(compare_runs(*sides)).rstrip().endswith(f"{NEW[:12]} {flags}{flag}")


def test_under_nox_the_command_is_one_of_a_session_that_has_torch(monkeypatch) -> None:
    monkeypatch.setenv("NOX_CURRENT_SESSION", "compare")
    assert f"the firm answer: nox -s ab -- {BASE[:12]} {NEW[:12]} --workload line" in shown(advisory(manual=1.3))


def test_two_sessions_of_one_commit_have_no_command_and_say_why() -> None:
    text = shown(advisory(commit=BASE, manual=1.3))
    assert "harness ab" not in text
    assert f"both sides are of commit {BASE[:12]}: what differs is the session, not the code" in text


def test_two_versions_of_torch_at_one_commit_are_settled_by_the_command_that_installs_both() -> None:
    varied = replace(advisory(commit=BASE, manual=1.3), varied=("torch: 2.12.0+cpu and 2.13.0+cpu",))
    flags = "--workload line --engine manual --batch-size 100"
    assert f"the firm answer: nox -s ab -- --torch 2.12.0 --torch 2.13.0 {flags}\n" in shown(varied)
    python = replace(varied, varied=("python_minor: 3.11 and 3.12",))
    two = f"the firm answer: harness ab --python A --python B {flags}, of two interpreters, A and B"
    assert f"{two} (python_minor: 3.11 and 3.12)\n" in shown(python)
    sides = [run(name, session=name, commit=BASE) for name in ("base", "new")]
    for side in sides:
        side.measurements["case_id"] = side.measurements["case_id"].str.replace("cpu", "cuda")
    cuda = shown(replace(compare_runs(*sides), varied=("torch: 2.12.0+cu130 and 2.13.0+cu130",)))
    assert "nox -s ab" not in cuda
    assert " --device cuda " in cuda
    assert "of two interpreters, A and B (torch: 2.12.0+cu130 and 2.13.0+cu130)" in cuda
    other = replace(varied, varied=("cpus: 2 and 4",))
    assert f"both sides are of commit {BASE[:12]}: what differs is cpus and the session, not the code" in shown(other)
    assert "of the commits alone, without cpus: harness ab" in shown(replace(advisory(), varied=("cpus: 2 and 4",)))


def test_what_is_not_committed_is_measured_from_the_working_tree() -> None:
    text = shown(compare_runs(run("base"), run("new", session="later", commit=BASE, dirty=True)))
    assert f"harness ab {BASE[:12]} worktree --workload line" in text


def test_an_unknown_commit_is_left_to_the_user() -> None:
    text = shown(advisory(commit="unknown"))
    assert f"harness ab {BASE[:12]} NEW --workload" in text
    assert "the tables do not name the commit" in text


# Markdown


def test_the_heading_is_the_verdict_and_what_is_the_same_is_folded_away() -> None:
    page = as_markdown(firm(manual=1.3))
    assert page.startswith("### ✗ 1 of 4 cases regressed: ")
    before, _, folded = page.partition("<details>")
    assert f"| `{case('manual')}` |" in before
    assert f"| `{case('autograd')}` |" in folded
    assert case("autograd") not in before
    rows = [line for line in page.splitlines() if line.startswith("|")]
    tables = [rows[:3], rows[3:]]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1, "every row has the cells of its head"


def test_markdown_of_strangers_formats_nothing_calls_nobody_and_breaks_no_table() -> None:
    hostile = CaseResult(HOSTILE, Status.LOST, f"crashed: {HOSTILE}")
    slower = replace(SAME, case_id=HOSTILE, status=Status.REGRESSED)
    page = as_markdown(replace(compared_of(hostile, slower, warnings=(HOSTILE,)), base=run(HOSTILE)))
    head, row = (next(line for line in page.splitlines() if line.startswith(start)) for start in ("| case", "| a"))
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head))
    for mark in (r"(?<!\\)`c", r"(?<!\\)<img", r"@everyone", r"(?<!\\)\[x", r"#12", r"://evil", "\x1b"):
        assert not re.search(mark, page), mark
    assert "everyone" in page


def test_a_comment_stays_within_what_github_takes() -> None:
    cases = [replace(SAME, case_id=f"a/{number}" + "x" * 600, status=Status.REGRESSED) for number in range(300)]
    page = as_markdown(compared_of(*cases, *(replace(each, status=Status.SAME) for each in cases)))
    assert len(page) < 65_536
    assert re.search(r"and 2\d\d more cases", page)


# Annotations


def test_a_regression_is_an_error_and_an_undecided_case_a_warning() -> None:
    lines = annotations(compared_of(SAME, OPEN, replace(SAME, case_id="a/slow", status=Status.REGRESSED, change=0.1)))
    error, warning = lines
    assert error.startswith("::error title=regressed%3A a/slow::+10.0%25 [-1.0%25, +1.1%25], 100 µs → 100 µs, margin 2")
    assert warning.startswith("::warning title=undecided%3A a/open::+1.5%25")
    assert warning.endswith("14 rounds a side would decide")


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (Status.REGRESSED, "error"),
        (Status.SLOWER, "error"),
        (Status.LOST, "error"),
        (Status.CONVERGES_LESS, "error"),
        (Status.UNDECIDED, "warning"),
        (Status.CHANGED, "warning"),
        *((status, "") for status in (Status.SAME, Status.IMPROVED, Status.FASTER, Status.WITHIN, Status.FIXED)),
        *((status, "") for status in (Status.NEW, Status.MISSING, Status.FAILING)),
    ],
)
def test_every_status_has_its_level(status: Status, level: str) -> None:
    lines = annotations(compared_of(CaseResult("a", status, "why")))
    assert [line.split()[0].removeprefix("::") for line in lines] == ([level] if level else [])


def test_an_annotation_of_a_stranger_stays_one_command() -> None:
    (line,) = annotations(compared_of(CaseResult(HOSTILE, Status.LOST, f"{HOSTILE}\n::error::more")))
    assert line.isprintable()
    title, message = re.fullmatch(r"::error title=([^:,]*)::(.*)", line).groups()
    assert "%2C" in title
    assert "%25" in message
    assert re.fullmatch(r"([^%]|%(25|0A|3A|2C))*", title + message)


def test_more_annotations_than_github_shows_end_with_how_many_there_are() -> None:
    lines = annotations(compared_of(*(CaseResult(f"a{number}", Status.LOST, "why") for number in range(25))))
    assert len(lines) == 10
    assert "16 more cases" in lines[-1]


# JSON


def test_the_json_has_both_sides_every_case_and_no_nan() -> None:
    compared = compare_runs(
        run("base"), with_outcome(run("new", {"autograd": 1.3}), "manual", "timeout", "after 600 s"), vary=()
    )
    found = json.loads(json.dumps(as_json(compared), allow_nan=False))
    assert found["schema"] == 1
    assert found["verdict"] == "regressed"
    assert found["firm"] is found["paired"] is True
    assert found["sessions"] is None
    assert found["counts"] | {"lost": 1, "regressed": 1, "new": 0} == found["counts"]
    run_of = {"name": "base", "run_id": "base", "commit": BASE, "dirty": False, "session": "both", "rounds": 10}
    assert found["base"] == {**run_of, "machine": "amd-epyc-2c", "fingerprint": "c0ffee"}
    cases = {each["case_id"]: each for each in found["cases"]}
    assert list(cases) == [case(engine) for engine in ENGINES]
    lost, slow = cases[case("manual")], cases[case("autograd")]
    assert lost["status"] == "lost"
    assert lost["reason"] == "timeout: after 600 s"
    assert lost["change"] is lost["base_step_ns"] is lost["rounds_needed"] is None
    assert slow["change"] == pytest.approx(slow["new_step_ns"] / slow["base_step_ns"] - 1, rel=0.05)
    assert slow["change_low"] < slow["change"] < slow["change_high"]
    assert slow["margin"] == pytest.approx(0.02)
    assert (slow["rounds_base"], slow["rounds_new"]) == (10, 10)


@pytest.mark.parametrize(
    ("compared", "word"),
    [
        (compared_of(SAME, OPEN), "no_regression"),
        (compared_of(SAME, OPEN, replace(OPEN, case_id="b")), "undecided"),
        (compared_of(CaseResult("a", Status.FAILING)), "no_times"),
        (compared_of(SAME, replace(SAME, case_id="b", status=Status.SLOWER), firm=False), "slower"),
        (compared_of(SAME, CaseResult("b", Status.CONVERGES_LESS), firm=False), "regressed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_word_for_all(compared: Compared, word: str) -> None:
    assert as_json(compared)["verdict"] == word


def test_two_sessions_say_in_json_that_their_spread_is_assumed() -> None:
    assert as_json(advisory())["sessions"] == {"sessions": 0, "measured": False, "common": 0.02, "own": 0.0}


# The summary of a step


def test_the_markdown_is_appended_to_the_summary_of_the_step(tmp_path, monkeypatch) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n", "utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    compared = firm(manual=1.3)
    assert step_summary(compared)
    assert step_summary(compared)
    assert file.read_text("utf-8") == "before\n" + 2 * (as_markdown(compared) + "\n")


def test_elsewhere_there_is_no_summary_and_nothing_is_said(capsys) -> None:
    assert not step_summary(firm())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["folder", "nowhere", "pipe"])
def test_a_summary_that_cannot_be_written_is_one_line_and_no_failure(kind, tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "a" / "b" if kind == "nowhere" else tmp_path / "pipe"
    if kind == "pipe":
        os.mkfifo(path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    assert not step_summary(firm())
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"harness: GITHUB_STEP_SUMMARY .*: cannot be written: .+\n", err)
