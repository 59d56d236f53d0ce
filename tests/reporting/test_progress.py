import io
import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from harness.plan.case import Case
from harness.plan.estimate import process_seconds, sweep_seconds
from harness.plan.sweep import Sweep
from harness.reporting import progress
from harness.reporting.progress import RunProgress

CASE = Case("line", "autograd", "cpu", "float32", 100)
SWEEP = Sweep((CASE,), rounds=8)
FIRST, LATER = (process_seconds(CASE, number, SWEEP) for number in (0, 1))
OK = {"outcome": "ok", "reason": "", "seconds": 6.54}


@pytest.fixture(autouse=True)
def _nothing_forces_colour(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is told the time."""
    ticking = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: ticking.now))
    return ticking


def console(**options: Any) -> Console:
    return Console(file=io.StringIO(), width=160, **options)


def go_through(watching: RunProgress, number: int, record: dict[str, Any] = OK) -> None:
    watching.case_started(number, CASE)
    watching.phase_started("timing")
    watching.case_finished(number, CASE, record)


def last_frame(terminal: Console) -> str:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.file.getvalue())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()][-1]


# Without a terminal


def test_without_a_terminal_every_finished_process_is_one_plain_line():
    log = console()
    with RunProgress(log, Sweep((CASE,), rounds=2)) as watching:
        go_through(watching, 0)
        go_through(watching, 1)
    assert log.file.getvalue().splitlines() == [
        "1/2 round 1/2 line/autograd/cpu/float32/b100 ok (6.5 s)",
        "2/2 round 2/2 line/autograd/cpu/float32/b100 ok (6.5 s)",
    ]


@pytest.mark.parametrize("reason", ["killed by SIGSEGV", "[red] and [1, 2] and [/]", "long " * 60 + "end"])
def test_a_process_that_ended_otherwise_says_how_and_why_word_by_word_in_one_line(reason):
    log = console()
    with RunProgress(log, SWEEP) as watching:
        go_through(watching, 0, {**OK, "outcome": "crashed", "reason": reason})
    assert log.file.getvalue() == f"1/8 round 1/8 {CASE.case_id} crashed: {reason} (6.5 s)\n"


def test_a_process_that_is_not_needed_is_counted_and_not_told():
    log = console()
    with RunProgress(log, SWEEP) as watching:
        watching.case_skipped(0, CASE)
        watching.case_skipped(1, CASE)
        go_through(watching, 2)
    assert log.file.getvalue().splitlines() == [f"3/8 round 3/8 {CASE.case_id} ok (6.5 s)"]


def test_what_is_lost_and_measured_again_is_counted_once_more():
    log = console()
    with RunProgress(log, Sweep((CASE,), rounds=2)) as watching:
        go_through(watching, 0)
        watching.measured_again(1)
        go_through(watching, 0)
        go_through(watching, 1)
    assert [line.split()[0] for line in log.file.getvalue().splitlines()] == ["1/2", "2/3", "3/3"]


def test_a_spare_round_is_one_more_than_was_planned_however_often_it_is_begun():
    log = console()
    with RunProgress(log, Sweep((CASE,), rounds=2)) as watching:
        go_through(watching, 0)
        go_through(watching, 1)
        watching.case_started(2, CASE)
        go_through(watching, 2)
    assert [line.partition(" line/")[0] for line in log.file.getvalue().splitlines()] == [
        *("1/2 round 1/2", "2/2 round 2/2", "3/3 spare round 1")
    ]


def test_a_process_is_told_by_its_own_name_though_another_began_after_it():
    log = console()
    with RunProgress(log, Sweep((CASE,), rounds=2)) as watching:
        watching.case_started(0, CASE)
        watching.case_started(1, CASE)
        watching.case_finished(0, CASE, OK)
    assert "round 1/2" in log.file.getvalue()


def test_a_quiet_console_hears_nothing():
    for terminal in (False, True):
        quiet = console(quiet=True, force_terminal=terminal)
        with RunProgress(quiet, SWEEP) as watching:
            go_through(watching, 0)
        assert quiet.file.getvalue() == ""


# On a terminal


def test_a_terminal_shows_round_case_phase_and_how_many_are_done():
    terminal = console(force_terminal=True)
    with RunProgress(terminal, SWEEP) as watching:
        go_through(watching, 0)
        watching.case_started(1, CASE)
        watching.phase_started("gate")
        frame = last_frame(terminal)
    assert "round 2/8 line/autograd/cpu/float32/b100 gate" in frame
    assert "1/8" in frame
    assert "left" in frame


def test_the_bar_is_gone_when_the_run_is_over():
    terminal = console(force_terminal=True)
    with RunProgress(terminal, SWEEP) as watching:
        go_through(watching, 0)
    assert terminal.file.getvalue().rpartition("\x1b[2K")[2].strip() == ""


def test_nothing_is_drawn_and_no_thread_runs_while_a_phase_goes_on():
    terminal, threads = console(force_terminal=True), threading.active_count()
    with RunProgress(terminal, SWEEP) as watching:
        watching.case_started(0, CASE)
        watching.phase_started("timing")
        assert threading.active_count() == threads


# How long it will still take


def time_left(terminal: Console) -> int:
    found = re.search(r"about (\d+) (s|min) left", last_frame(terminal))
    return int(found[1]) * (60 if found[2] == "min" else 1)


def test_at_first_the_estimate_of_the_plan_is_shown_and_goes_down_as_processes_end(clock):
    sweep = Sweep((CASE,), rounds=2, seeds=64)
    terminal = console(force_terminal=True)
    with RunProgress(terminal, sweep) as watching:
        watching.case_started(0, CASE)
        watching.phase_started("import")
        assert time_left(terminal) == round(sweep_seconds(sweep))
        clock.now += 1000
        watching.case_finished(0, CASE, OK)
        watching.case_started(1, CASE)
        watching.phase_started("import")
        assert time_left(terminal) == LATER  # too early to know this machine


def test_a_machine_that_takes_twice_the_time_doubles_what_is_left(clock):
    terminal = console(force_terminal=True)
    with RunProgress(terminal, SWEEP) as watching:
        for number in range(6):
            go_through(watching, number)
        clock.now += 2 * (FIRST + 5 * LATER)
        watching.case_started(6, CASE)
        watching.phase_started("import")
        assert time_left(terminal) == 2 * 2 * LATER


def test_what_a_resumed_run_skips_is_no_evidence_of_a_fast_machine(clock):
    terminal = console(force_terminal=True)
    with RunProgress(terminal, SWEEP) as watching:
        for number in range(4):
            watching.case_skipped(number, CASE)
        watching.case_started(4, CASE)
        watching.phase_started("import")
        assert time_left(terminal) == 4 * LATER


def test_a_long_wait_is_told_in_minutes(clock):
    sweep = Sweep((CASE,), rounds=100)
    terminal = console(force_terminal=True)
    with RunProgress(terminal, sweep) as watching:
        watching.case_started(0, CASE)
        watching.phase_started("import")
        assert f"about {100 * LATER / 60:.0f} min left" in last_frame(terminal)
