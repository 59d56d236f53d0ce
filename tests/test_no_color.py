"""https://no-color.org: with NO_COLOR no command writes a colour to a terminal; bold and dim letters stay."""

import shutil
import sys
from dataclasses import replace

import pytest

import harness.measuring.doctor as doctor
import harness.running.session as sessions
from harness.cli import main
from harness.running.launcher import Launcher
from harness.tables.files import read_table
from tests.comparing.test_explained import record as profiled
from tests.pseudo_terminal import Terminal, colours
from tests.reporting.test_doctor import BAD, GOOD, NOISY
from tests.reporting.test_proof import FOUND
from tests.stored_sessions import AUTOGRAD as AUTOGRAD_ID
from tests.stored_sessions import FROZEN, MACHINE, write_sessions
from tests.stored_sessions import MANUAL as MANUAL_ID
from tests.test_cli import AUTOGRAD, COMMIT, HERE, MANUAL, SWEEP, here, rounds, stored_run

__all__ = ["here"]  # a fixture: an empty folder to stand in, and signals given back

TEN = replace(SWEEP, rounds=10)
CRASHED = {"outcome": "crashed", "reason": "killed by SIGSEGV", "seconds": 1.0}


def steps(step_ns: float) -> list[float]:
    return [step_ns * (1 + 0.001 * (number % 3)) for number in range(10)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Store runs to look at."""
    folder = tmp_path_factory.mktemp("runs")
    for name, factor in (("base", 0.9), ("new", 1.0)):
        both = [*rounds(MANUAL, steps(1000.0 * factor)), *rounds(AUTOGRAD, steps(1000.0))]
        stored_run(folder / name, both, TEN, run_id=name)
    stored_run(folder / "begun", rounds(AUTOGRAD, steps(1000.0)[:3]))
    history = {AUTOGRAD_ID: [1000.0] * 12, MANUAL_ID: [300.0] * 10 + [400.0] * 2, FROZEN: [2000.0] * 12}
    write_sessions(folder / "stored" / MACHINE, history)
    return folder


@pytest.fixture
def place(here, runs, monkeypatch):
    """Stand where these are, on a machine of which nothing is asked that takes long."""
    shutil.copytree(runs, here, dirs_exist_ok=True)
    monkeypatch.setattr(sessions, "this_machine", lambda _sweep: HERE)
    monkeypatch.setattr(sessions, "revision", lambda _where: COMMIT)
    monkeypatch.setattr(doctor, "examine", lambda _device: [GOOD, NOISY, BAD])
    explained = {"outcome": "ok", "inside_note": "", **profiled()}
    monkeypatch.setattr("harness.running.explaining.explain", lambda *_: explained)
    monkeypatch.setattr("harness.cli.prove.plan_proof", lambda: list(FOUND))

    def prove(cases, _seeds, _launcher, finished) -> None:
        for case in cases:
            finished(case, {"seconds": 1.0, **FOUND[case]})

    def measure(_launcher, _request, on_phase) -> dict:
        on_phase("setup")
        return CRASHED

    monkeypatch.setattr("harness.cli.prove._chart", lambda *_: "no chart")
    monkeypatch.setattr("harness.running.proving.prove", prove)
    monkeypatch.setattr(Launcher, "measure", measure)
    return here


@pytest.fixture
def on_a_terminal(monkeypatch):
    """Return a function that runs the program on a pty and returns all that it has written there."""
    terminal = Terminal(120, 40)
    files = [terminal.file(), terminal.file()]
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(*arguments: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["harness", *arguments])
            patch.setattr(sys, "stdout", files[0])
            patch.setattr(sys, "stderr", files[1])
            with pytest.raises(SystemExit):
                main()
            for file in files:
                file.flush()
        terminal.read()
        return terminal.sent

    yield run
    for file in files:
        file.close()
    terminal.close()


COMMANDS = {
    "run": (["run", "--resume", "begun"], "killed by SIGSEGV", True),
    "run --baseline": (["run", "--resume", "new", "--baseline", "base"], "slower", True),
    "compare": (["compare", "base", "new"], "slower", True),
    "show": (["show", "base"], "autograd", True),
    "history": (["history", "stored"], "slower", True),
    "doctor": (["doctor"], "CPU quota", True),
    "prove": (["prove"], "WrongSign", True),
    "noise": (["noise", "base"], "rounds a side", False),
    "crossover": (["crossover", "base"], "manual", False),
    "explain": (["explain", "line/autograd/cpu/float32/b100"], "aten::addmm", False),
    "list": (["list", "engines"], "autograd", False),
    "help": (["--help"], "Commands:", False),
    "an error": (["run", "--colour", "red"], "harness: ", False),
    "an error of ours": (["run", "--engine", "autograt"], "did you mean", False),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_with_no_color_no_command_writes_a_colour_to_a_terminal(place, on_a_terminal, monkeypatch, name):
    arguments, text, _ = COMMANDS[name]
    monkeypatch.setenv("NO_COLOR", "1")
    written = on_a_terminal(*arguments)
    assert text in written
    assert colours(written) == []


@pytest.mark.parametrize("name", [name for name, (_, _, coloured) in COMMANDS.items() if coloured])
def test_without_it_there_are_colours(place, on_a_terminal, monkeypatch, name):
    assert colours(on_a_terminal(*COMMANDS[name][0]))


def test_where_it_is_empty_there_are_colours(place, on_a_terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert colours(on_a_terminal("show", "base"))


def test_colour_can_be_forced_where_nobody_looks_and_no_color_wins(place, monkeypatch, capsys):
    for forced in ({"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}):
        for setting, value in forced.items():
            monkeypatch.setenv(setting, value)
        monkeypatch.setattr(sys, "argv", ["harness", "show", "base"])
        with pytest.raises(SystemExit):
            main()
        assert bool(colours(capsys.readouterr().out)) is ("NO_COLOR" not in forced)


def test_what_a_run_with_the_screen_keeps_is_what_it_is_without(place, on_a_terminal):
    written = on_a_terminal("run", "--resume", "begun")
    assert "\x1b[?25l" in written
    assert "line/manual/cpu/float32/b100" in written.partition("\x1b[?25h")[0]
    table = read_table(place / "begun", "summary").set_index("engine")
    assert dict(table["outcome"]) == {"manual": "crashed", "autograd": "ok"}
