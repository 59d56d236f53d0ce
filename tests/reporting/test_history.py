import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from harness.comparing.series import CaseHistory, History, Move, RunLine, Status
from harness.reporting.history import as_json, as_markdown, headline, lines, show_history, sparkline

MANUAL = CaseHistory(
    case_id="line/manual/cpu/float32/b100",
    status=Status.STEADY,
    change=0.0123,
    limit=0.0345,
    sessions=20,
    trend=0.0012,
    trend_low=-0.0003,
    trend_high=0.0027,
    first_ns=40_000.0,
    best_ns=38_500.0,
    last_ns=41_200.0,
    times=(40_000.0, 38_500.0, math.nan, 41_200.0),
)
NEWEST = RunLine("20260102T000000Z-c0ffeec0ff", "c0ffee" * 6 + "c0de", "s", "newest", 21, 0.0123)
OLD = RunLine("20260101T000000Z-bad0bad0ba", "bad0" * 10, "r", "dirty", 20, math.nan)


def history(*cases: CaseHistory, **more: Any) -> History:
    return History(
        **{
            "machine": "amd-epyc-2c",
            "fingerprint": "00aa11bb22cc",
            "dirty": False,
            "runs": (OLD, NEWEST),
            "sessions": 21,
            "cases": cases or (MANUAL,),
            **more,
        }
    )


def is_now(status: Status, **more: Any) -> CaseHistory:
    return replace(MANUAL, status=status, **more)


def shown(of: History, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_history(console, of)
    return console.file.getvalue()


def line(text: str, *parts: str) -> str:
    return next(each for each in text.splitlines() if all(part in each for part in parts))


def test_a_case_is_shown_with_its_times_its_trend_and_its_verdict():
    cells = line(shown(history()), MANUAL.case_id).split()
    assert cells[1:5] == ["▅▁·█", "40", "µs", "38.5"]
    assert cells[7:] == ["µs", "+0.12%", "[-0.03%,", "+0.27%]", "+1.2%", "±3.5%", "=", "steady"]


def test_what_no_case_has_has_no_column():
    few = replace(MANUAL, status=Status.TOO_FEW, trend=math.nan, change=math.nan, limit=math.nan)
    header = line(shown(history(few)), "case", "verdict")
    assert header.split() == ["case", "sessions", "first", "best", "last", "verdict"]


@pytest.mark.parametrize("width", [60, 80, 100, 130])
def test_a_narrow_terminal_gives_up_columns_and_keeps_change_and_verdict(width):
    text = shown(history(is_now(Status.SLOWER)), width)
    assert "✗ slower" in text
    assert "+1.2%" in text
    table = text.partition("\n")[2]  # the verdict, in one line, is left to the terminal
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([Status.STEADY], "no case slower"),
        ([Status.TOO_FEW], "no case can be judged yet"),
        ([Status.SLOWER], "1 case slower in two sessions in a row"),
        (
            [Status.SLOWER, Status.SLOWER, Status.LOST],
            "2 cases slower in two sessions in a row; 1 case not ok any more",
        ),
        ([Status.MAYBE_SLOWER], "1 case slower this once: run it again, a second session decides"),
        ([Status.FASTER, Status.MAYBE_FASTER, Status.STEADY], "2 cases faster"),
    ],
)
def test_the_verdict_is_one_line(statuses, told):
    cases = [is_now(each, sessions=3 if each is Status.TOO_FEW else 20) for each in statuses]
    assert headline(history(*cases)) == f"amd-epyc-2c, 20260102T000000Z-c0ffeec0ff, 21 sessions: {told}"


def test_uncommitted_changes_are_said():
    assert "c0ffeec0ff with uncommitted changes, 21 sessions" in headline(history(dirty=True))


def test_a_machine_that_moved_is_told_in_one_line():
    (text,) = lines(history(is_now(Status.MACHINE), is_now(Status.STEADY), moves=(Move("cpu", 0.041, "frozen"),)))
    assert "moved by +4.1%" in text
    assert "1 of 2 moved together with it: the machine, not the commit" in text
    (text,) = lines(history(moves=(Move("cpu", -0.041, "frozen"),)))
    assert "moved by -4.1%, and no case moved together with it" in text


def test_without_a_frozen_engine_it_is_said_that_it_may_be_the_commit():
    (text,) = lines(history(is_now(Status.MACHINE), moves=(Move("cpu", 0.041, "median"),)))
    assert "the machine, or a commit that slows everything" in text


def test_where_nothing_tells_the_machine_from_the_commit_that_is_said():
    (text,) = lines(history(is_now(Status.SLOWER), untold=("cpu",)))
    assert "cpu: nothing here tells the machine from the commit" in text
    assert "--engine frozen" in text


def test_what_has_no_verdict_by_times_is_told_with_its_reason():
    told = list(
        lines(
            history(
                is_now(Status.LOST, case_id="a", reason="crashed: killed"),
                is_now(Status.CHANGED, case_id="b", reason="threads: 2 and 1"),
                is_now(Status.TOO_FEW, case_id="c", reason="3 more sessions to judge it by"),
                is_now(Status.TOO_FEW, case_id="d", reason="3 more sessions to judge it by"),
                is_now(Status.NEW, case_id="e"),
                is_now(Status.NOT_RUN, case_id="f"),
                others={"c0de": (2, "torch: 2.12, here 2.13"), "f00d": (1, "")},
            )
        )
    )
    assert told == [
        "✗ lost: a: crashed: killed",
        "– changed: b: threads: 2 and 1",
        "– too few: 3 more sessions to judge it by: c, d",
        "+ new: e",
        "- not in the newest run: f",
        "left out: 2 runs of another fingerprint, c0de (torch: 2.12, here 2.13)",
        "left out: 1 run of another fingerprint, f00d",
    ]


def test_of_very_many_cases_some_are_named():
    (text,) = lines(history(*(is_now(Status.NEW, case_id=f"c{number}") for number in range(30))))
    assert text.endswith("c8, c9, 20 more")


def test_the_last_runs_are_listed_with_their_part():
    text = shown(history())
    assert line(text, "20260102T", "newest").split() == [
        "20260102T000000Z-c0ffeec0ff",
        "c0ffeec0ff",
        "21",
        "+1.2%",
        "newest",
    ]
    assert line(text, "20260101T").split() == ["20260101T000000Z-bad0bad0ba", "bad0bad0ba", "20", "dirty"]
    many = shown(history(runs=(*(replace(OLD, run_id=f"r{number}") for number in range(30)), NEWEST)))
    assert "the last of 31 runs" in many
    assert "r20 " not in many
    assert "r21 " in many


@pytest.mark.parametrize(
    ("times", "drawn"),
    [
        ([], ""),
        ([math.nan], ""),
        ([100.0], "▅"),
        ([100.0, 200.0], "▁█"),
        ([100.0, 100.0 * math.sqrt(2), 200.0], "▁▅█"),
        ([100.0, 101.0, 99.0], "▅▆▃"),  # noise of a percent is no mountain
        ([100.0, math.nan, 200.0], "▁·█"),
        ([*[300.0] * 9, *[100.0, 200.0] * 12], "▁█" * 12),
    ],
)
def test_a_sparkline_has_one_block_for_each_of_the_last_sessions(times, drawn):
    assert sparkline(times) == drawn


def test_markdown_has_a_row_per_case_and_shows_strange_texts_as_they_are():
    text = as_markdown(history(is_now(Status.LOST, reason="crashed: <b>|@all"), sessions=1))
    assert text.startswith("### ✗ amd-epyc-2c")
    rows = [each for each in text.splitlines() if each.startswith("|")]
    assert len({each.count("|") for each in rows}) == 1
    assert rows[2].startswith(f"| `{MANUAL.case_id}` |")
    assert "\\<b\\>\\|@&#8203;all" in text


def test_json_has_everything_and_null_for_what_is_not_known():
    told = as_json(
        history(
            is_now(Status.MAYBE_SLOWER, trend=math.nan),
            moves=(Move("cpu", 0.04, "frozen"),),
            others={"c0de": (2, "torch: 2.12, here 2.13")},
            untold=("cuda",),
        )
    )
    assert told["untold"] == ["cuda"]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["schema"], told["verdict"], told["counts"]["slower?"]) == (1, "undecided", 1)
    assert told["cases"][0]["step_ns"] == [40_000.0, 38_500.0, None, 41_200.0]
    assert told["cases"][0]["trend"] is None
    assert told["runs"][0]["change"] is None
    assert told["newest"]["run_id"] == NEWEST.run_id
    assert told["moves"] == [{"device": "cpu", "change": 0.04, "by": "frozen"}]
    assert told["left_out"] == {"c0de": {"runs": 2, "differing": "torch: 2.12, here 2.13"}}


@pytest.mark.parametrize(
    ("status", "verdict", "sign"),
    [
        (Status.SLOWER, "slower", "✗"),
        (Status.LOST, "lost", "✗"),
        (Status.MAYBE_SLOWER, "undecided", "?"),
        (Status.MACHINE, "no_regression", "✓"),
    ],
)
def test_the_verdict_is_a_word_for_programs_and_a_sign_for_people(status, verdict, sign):
    of = history(is_now(status))
    assert as_json(of)["verdict"] == verdict
    assert as_markdown(of).startswith(f"### {sign} ")
