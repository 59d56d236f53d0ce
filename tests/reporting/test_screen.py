"""The screen of a run on a real pty, as a person would see it."""

import os
import random
import re
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console

from harness.plan.case import Case
from harness.plan.sweep import Sweep
from harness.reporting.progress import RunProgress
from tests.pseudo_terminal import Terminal, colours

BEFORE = "$ run"
ENGINES = ("manual", "autograd", "compile_step", "compile_reduce_overhead")
FEW = Sweep(tuple(Case("line", engine, "cpu", "float32", 100) for engine in ENGINES), rounds=3)
MANY = Sweep(tuple(Case("line_deep", "compile_unroll", "cpu", "float32", batch) for batch in range(1, 101)), rounds=3)
SIZES = ((200, 40), (100, 30), (60, 20), (60, 7), (40, 8), (20, 4), (10, 2))


@pytest.fixture(autouse=True)
def _an_ordinary_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class Watched:
    """A run that is watched on a terminal of some size."""

    def __init__(self, sweep: Sweep, width: int = 100, height: int = 30, entries=()) -> None:
        self.sweep = sweep
        self.terminal = Terminal(width, height)
        self.file = self.terminal.file()
        self.console = Console(file=self.file)
        self.console.size = (width, height)
        self.progress = RunProgress(self.console, sweep, entries)
        print(BEFORE, file=self.file, flush=True)

    def resize(self, width: int, height: int) -> None:
        self.terminal.resize(width, height)
        self.console.size = (width, height)

    def begin(self, number: int, case: Case, *phases: str) -> None:
        self.progress.case_started(number, case)
        for phase in phases:
            self.terminal.read()  # or it is full, and whoever writes to it waits
            self.progress.phase_started(phase)
        self.terminal.read()

    def measure(self, number: int, case: Case, step_ns: float | None = 1e5, outcome: str = "ok") -> None:
        self.begin(number, case, "timing")
        record = {"outcome": outcome, "reason": "" if outcome == "ok" else "it is so", "seconds": 5.0}
        self.progress.case_finished(number, case, record if step_ns is None else {**record, "step_ns": step_ns})
        self.terminal.read()

    def frame(self) -> list[str]:
        first, *frame = self.terminal.seen()
        return [first, *frame] if first != BEFORE else frame

    def row(self, name: str) -> list[str]:
        [row] = [line for line in self.frame() if name in line and "round " not in line]
        return row.replace("> ", "").split("  ")


@pytest.fixture
def watched():
    """Return a function that begins to watch a run; the terminal is closed when the test is over."""
    begun = []

    def watch(sweep: Sweep, *size: int, entries=()) -> Watched:
        begun.append(Watched(sweep, *size, entries=entries))
        return begun[-1]

    yield watch
    for each in begun:
        each.file.close()
        each.terminal.close()


# What it shows


def test_each_case_has_a_line_with_its_rounds_its_step_time_and_its_spread_between_processes(watched):
    manual, autograd, compiled, _ = FEW.cases
    run = watched(FEW)
    with run.progress:
        for number, step_ns in enumerate((1e5, 1.02e5, 1.5e5)):
            run.measure(number, manual, step_ns)
        run.measure(0, autograd, 2e5)
        run.measure(0, compiled, None, "wrong_gradient")
        run.begin(1, autograd, "gate")
        cells = [[cell.strip() for cell in run.row(name) if cell.strip()] for name in ("manual", "/autograd", "_step")]
    assert cells[0][1:] == ["3/3", "115 µs", "2.9% of 3"]  # of the robust kind: the third round counts as one of three
    assert cells[1][1:] == ["1/3", "200 µs"]
    assert cells[2][1:] == ["0/3", "wrong_gradient"]


def test_below_it_says_what_runs_in_which_phase_how_much_is_done_and_what_else_there_is(watched):
    run = watched(FEW)
    with run.progress:
        run.measure(0, FEW.cases[0], None, "crashed")
        run.begin(0, FEW.cases[1], "import", "first_call")
        *_, failed, more, status = run.frame()
        running = [line for line in run.frame() if line.startswith("> ")]
    assert status.startswith("round 1/3 line/autograd/cpu/float32/b100 first_call  ━")
    assert re.search(r"  1/12  about \d+ (s|min) left$", status)
    assert failed == "without a time: 1 crashed"
    assert more == "2 cases not begun"
    assert len(running) == 1
    assert "/autograd/" in running[0]


def test_of_two_arms_each_case_has_a_line_in_each(watched):
    run = watched(replace(FEW, cases=FEW.cases[:1] * 2))
    with run.progress:
        for arm, step_ns in (("main", 1e5), ("worktree", 1.1e5)):
            run.progress.arm = arm
            run.measure(0, FEW.cases[0], step_ns)
        run.begin(1, FEW.cases[0], "timing")
        steps = [run.row(f"b100 of {arm}")[-1].strip() for arm in ("main", "worktree")]
        assert run.frame()[-1].startswith("round 2/3 line/manual/cpu/float32/b100 of worktree timing")
    assert steps == ["100 µs", "110 µs"]


def test_a_run_that_is_gone_on_with_shows_what_it_had(watched):
    case = FEW.cases[0]
    attempt = {"kind": "attempt", "case_id": case.case_id, "round": 0}
    record = {**attempt, "kind": "record", "outcome": "ok", "reason": "", "step_ns": 1e5, "seconds": 5.0}
    run = watched(FEW, entries=[attempt, record])
    with run.progress:
        run.progress.case_skipped(0, case)
        run.measure(1, case, 1.02e5)
        run.begin(2, case, "import")
        assert [cell.strip() for cell in run.row("manual") if cell.strip()][1:] == ["2/3", "101 µs", "1.5% of 2"]
        assert "  2/12  " in run.frame()[-1]


def test_a_process_that_is_begun_again_is_the_same_and_is_counted_once(watched):
    run = watched(FEW)
    with run.progress:
        run.begin(0, FEW.cases[0], "import", "timing")
        first = run.frame()[-1]
        run.begin(0, FEW.cases[0], "import")
        again = run.frame()
        run.measure(0, FEW.cases[0])
        run.begin(0, FEW.cases[1], "import")
        after = run.frame()
    assert " timing  " in first
    assert " import again  " in again[-1]
    assert len([line for line in again if line.startswith("> ")]) == 1
    assert "  1/12  " in after[-1]
    assert [line for line in after if line.startswith("> ")] == [after[2]]


def test_processes_of_a_cluster_are_all_marked(watched):
    run = watched(FEW)
    with run.progress:
        run.begin(0, FEW.cases[0], "on node 1")
        run.begin(0, FEW.cases[1], "on node 2")
        assert len([line for line in run.frame() if line.startswith("> ")]) == 2


# However large the terminal is


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}×{0[1]}".format)
@pytest.mark.parametrize("sweep", [FEW, MANY], ids=["few", "many"])
def test_no_frame_is_larger_than_the_terminal(watched, sweep, size):
    width, height = size
    chance, run = random.Random(1), watched(sweep, *size)
    with run.progress:
        for number, case in list(sweep.schedule())[:50]:
            run.measure(number, case, *((None, "crashed") if chance.random() < 0.1 else (1e5,)))
            assert not any(run.terminal.wrapped)
        run.begin(2, sweep.cases[0], "gate")
        frame = run.frame()
        assert len(frame) <= max(1, height - 1)
        assert all(len(line) <= width for line in frame)
        if height > 4:
            assert any(line.startswith("> ") for line in frame)
        if width >= 60:
            assert re.search(r"/\d+  about \d+ (s|min) left$", frame[-1])
            assert " gate" in "".join(frame[-2:])
    assert len(run.terminal.lines) <= height + 1  # nothing has moved up out of sight


def test_of_many_cases_the_newest_are_shown_and_the_others_counted(watched):
    run = watched(MANY, 60, 20)
    with run.progress:
        for case in MANY.cases[:50]:
            run.measure(0, case)
        run.begin(0, MANY.cases[99], "timing")
        *rows, more, _, _ = run.frame()[1:]
    shown = [int(re.search(r"/b(\d+) ", row)[1]) for row in rows]
    assert shown == [*range(50 - len(shown) + 2, 51), 100]
    assert len(rows) == 15
    assert more == f"{51 - len(rows)} more cases, 49 not begun"


def test_what_names_share_goes_first_where_there_is_too_little_room_then_their_middle(watched):
    for width, name in (
        (100, "line/compile_reduce_overhead/cpu/float32/b100"),
        (60, "line/compile_reduce_overhead/b100"),
    ):
        run = watched(FEW, width, 20)
        with run.progress:
            run.begin(0, FEW.cases[3], "timing")
            assert run.frame()[1].startswith(f"> {name}  ")
    run = watched(FEW, 45, 20)
    with run.progress:
        run.begin(0, FEW.cases[3], "timing")
        assert re.match(r"> line/comp\w+…\w+/b100 ", run.frame()[1])


@pytest.mark.parametrize("size", [(40, 30), (33, 25), (140, 30), (100, 12), (100, 60), (50, 14)], ids=str)
def test_a_terminal_whose_size_changes_has_one_whole_frame_again_at_the_next_event(watched, size):
    run, changed = watched(FEW), watched(FEW, *size)
    for each in (run, changed):
        with each.progress:
            for case in FEW.cases[:3]:
                each.measure(0, case)
            each.begin(0, FEW.cases[3], "import")
            if each is run:
                run.resize(*size)
            each.begin(1, FEW.cases[0], "timing")
            seen = each.terminal.seen()
            frame = [re.sub("about .* left", "", line) for line in seen]
            if each is run:
                found = frame
        assert each.terminal.seen() == [BEFORE]
    assert found == frame


def test_a_terminal_that_became_narrow_at_the_end_is_left_empty(watched):
    run = watched(FEW)
    with run.progress:
        run.measure(0, FEW.cases[0])
        run.begin(0, FEW.cases[1], "import")
        run.resize(30, 30)
    assert run.terminal.seen() == [BEFORE]


# While blocks are timed


def test_nothing_is_written_and_no_thread_runs_while_a_phase_goes_on(watched):
    threads, run = threading.enumerate(), watched(FEW)
    with run.progress:
        run.measure(0, FEW.cases[0])
        run.begin(0, FEW.cases[1], "import", "timing")
        run.terminal.read()
        time.sleep(0.3)
        assert run.terminal.read() == ""
        assert threading.enumerate() == threads
        run.progress.phase_started("gate_after")
        assert "gate_after" in run.terminal.read()
    assert threading.enumerate() == threads


def test_the_table_is_not_made_again_when_a_phase_begins(watched, monkeypatch):
    run = watched(FEW)
    with run.progress:
        run.begin(0, FEW.cases[0], "import")
        monkeypatch.setattr("harness.reporting.screen.Table.__init__", lambda *_: pytest.fail("a table is made"))
        monkeypatch.setattr("harness.reporting.screen._line", lambda *_: "a status")
        run.progress.phase_started("timing")


# At its end


@pytest.mark.parametrize("ends", [None, KeyboardInterrupt, ValueError], ids=["well", "Ctrl-C", "an error"])
def test_it_leaves_nothing_behind_however_the_run_ends(watched, ends):
    run = watched(FEW)
    with pytest.raises(ends) if ends else os.scandir(), run.progress:  # a context that does nothing
        run.measure(0, FEW.cases[0])
        run.begin(0, FEW.cases[1], "timing")
        run.terminal.read()
        assert not run.terminal.cursor_shown
        if ends:
            raise ends
    assert run.terminal.seen() == [BEFORE]
    assert run.terminal.cursor_shown


@pytest.mark.parametrize("width", range(56, 66))
def test_what_the_terminal_writes_for_ctrl_c_is_taken_away_as_well(watched, width):
    run = watched(FEW, width, 20)
    with run.progress:
        run.begin(0, FEW.cases[3], "timing")
        print("^C", end="", file=run.file, flush=True)
    assert run.terminal.seen() == [BEFORE]


@pytest.mark.parametrize("when", ["open", "draw", "close"])
def test_a_signal_at_any_moment_leaves_the_cursor_shown(watched, when, monkeypatch):
    run = watched(FEW)
    stopped = {"open": "start", "draw": "refresh", "close": "stop"}[when]
    untouched = getattr(type(run.progress._screen._live), stopped)

    def interrupted(live, *arguments, **named):
        monkeypatch.setattr(type(live), stopped, untouched)
        live.console.show_cursor(False)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run.progress._screen._live), stopped, interrupted)
    with pytest.raises(KeyboardInterrupt), run.progress:
        run.measure(0, FEW.cases[0])
    run.terminal.read()
    assert run.terminal.cursor_shown


# Where there is nothing to draw on


def test_a_dumb_terminal_gets_plain_lines(watched, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    run = watched(FEW)
    with run.progress:
        run.measure(0, FEW.cases[0], 2.05e5)
        run.measure(0, FEW.cases[1], None, "crashed")
    run.terminal.read()
    assert "\x1b" not in run.terminal.sent
    assert run.frame() == [
        "1/12 round 1/3 line/manual/cpu/float32/b100 ok (5.0 s), step 205 µs",
        "2/12 round 1/3 line/autograd/cpu/float32/b100 crashed: it is so (5.0 s)",
    ]


@pytest.mark.parametrize("setting", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colour_that_is_forced_makes_no_terminal_of_a_log(tmp_path, monkeypatch, setting):
    monkeypatch.setenv(setting, "1")
    with (tmp_path / "log").open("w") as log, RunProgress(Console(file=log, width=180), FEW) as progress:
        progress.case_started(0, FEW.cases[0])
        progress.phase_started("timing")
        progress.case_finished(0, FEW.cases[0], {"outcome": "ok", "reason": "", "seconds": 5.0, "step_ns": 2.05e5})
    assert (tmp_path / "log").read_text() == "1/12 round 1/3 line/manual/cpu/float32/b100 ok (5.0 s), step 205 µs\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_are_left_out_where_nobody_wants_them(watched, monkeypatch, no_color):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    run = watched(FEW)
    with run.progress:
        run.measure(0, FEW.cases[0], None, "crashed")
        run.begin(0, FEW.cases[1], "timing")
    assert bool(colours(run.terminal.sent)) is not no_color
