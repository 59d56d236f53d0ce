import io
import re

import pytest
from rich.console import Console

from harness.measuring.doctor import Finding, Severity
from harness.reporting.doctor import show_findings

GOOD = Finding("clock", Severity.OK, "tsc, 50 ns a read")
NOISY = Finding("load", Severity.WARNING, "1.00 of 2 CPUs busy with others", "stop what need not run")
BAD = Finding("CPU quota", Severity.WORTHLESS, "0.5 CPUs' time for 2 cores", "raise it " + "or take another " * 12)


@pytest.fixture(autouse=True)
def _nothing_forces_colour(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(*findings: Finding, width: int = 100, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal or None)
    show_findings(console, findings)
    return console.file.getvalue()


def test_each_finding_is_a_line_with_its_word_and_what_to_do_below():
    lines = [line.rstrip() for line in shown(GOOD, NOISY).splitlines()]
    assert lines[:3] == [
        "ok       clock  tsc, 50 ns a read",
        "warning  load   1.00 of 2 CPUs busy with others",
        "                → stop what need not run",
    ]


def test_without_colour_there_is_none_and_with_it_every_word_stays():
    plain, coloured = shown(GOOD, NOISY, BAD), shown(GOOD, NOISY, BAD, terminal=True)
    assert "\x1b" not in plain
    assert "\x1b[32mok" in coloured
    assert "\x1b[33mwarning" in coloured
    assert "\x1b[31mworthless" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


@pytest.mark.parametrize("width", [40, 60, 80])
def test_long_advice_wraps_beside_the_words_and_nothing_is_lost(width):
    text = shown(GOOD, BAD, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    column = text.splitlines()[0].index("tsc")
    below = [line[column:] for line in text.splitlines()[1:-1]]
    words = " ".join(below).split()
    assert [word for word in words if word in ("→", "raise", "it", "or", "take", "another")] == [
        *("→", "raise", "it"),
        *("or", "take", "another") * 12,
    ]


def test_what_a_file_says_is_shown_and_never_obeyed():
    text = shown(
        Finding("frequency [red]governor", Severity.WARNING, "[bold]x[/bold] [/] :warning:", "[link=http://a]b[/link]")
    )
    for said in ("frequency [red]governor", "[bold]x[/bold] [/] :warning:", "[link=http://a]b[/link]"):
        assert said in text


@pytest.mark.parametrize(
    ("findings", "said"),
    [
        ([], "Nothing found"),
        ([GOOD], "Nothing found"),
        ([NOISY, GOOD], "noisier"),
        ([GOOD, BAD, NOISY], "worth nothing"),
    ],
)
def test_the_last_line_says_what_it_comes_to(findings, said):
    assert said in shown(*findings).splitlines()[-1]
