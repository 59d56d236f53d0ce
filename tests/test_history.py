"""`harness history` as a user has it: folders in, exit codes and texts out."""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli import Exit, main
from tests.stored_sessions import AUTOGRAD, FROZEN, MACHINE, MANUAL, run_id, write_run, write_sessions

QUIET = [1010.0, 990.0, 1004.0, 996.0, 1000.0, 1007.0, 993.0, 1002.0, 998.0, 1001.0, 999.0, 1003.0]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Program = Callable[..., Ended]


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch) -> Path:
    """Stand in a folder with an empty machine's folder; give signals back to pytest afterwards."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path / "results" / MACHINE
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def program(monkeypatch, capsys) -> Program:
    """Run the program in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", "history", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def assert_refused(ended: Ended, *texts: str) -> None:
    assert ended.code == Exit.USAGE
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    for text in texts:
        assert text in ended.err


@pytest.mark.parametrize(
    ("newest", "code", "strictly", "told"),
    [
        ([1000.0, 1000.0], Exit.MET, Exit.MET, "no case slower"),
        ([1000.0, 1050.0], Exit.MET, Exit.UNDECIDED, "1 case slower this once: run it again"),
        ([1050.0, 1050.0], Exit.MISSED, Exit.MISSED, "1 case slower in two sessions in a row"),
        ([950.0, 950.0], Exit.MET, Exit.MET, "1 case faster"),
        ([1000.0, "crashed"], Exit.MISSED, Exit.MISSED, "1 case not ok any more"),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_slower_twice_or_lost_ends_with_1_and_slower_once_with_4_if_strict(
    machine, program, newest, code, strictly, told
):
    write_sessions(machine, {MANUAL: [*QUIET, *newest], AUTOGRAD: [2000.0] * 14, FROZEN: QUIET + [1000.0] * 2})
    ended = program()
    assert (ended.code, ended.err) == (code, "")
    assert told in ended.out.splitlines()[0]
    assert program("--strict").code == strictly


def test_a_slower_machine_ends_with_0_and_says_so(machine, program):
    write_sessions(machine, {name: [*QUIET, 1060.0, 1060.0] for name in (MANUAL, AUTOGRAD, FROZEN)})
    ended = program("results", "--strict")
    assert ended.code == Exit.MET
    assert "the frozen engine, which no commit changes, moved by +6.0%" in ended.out
    assert ended.out.count("= machine") == 3


def test_too_few_sessions_end_with_0_and_say_how_many_are_missing(machine, program):
    write_sessions(machine, {MANUAL: [1000.0] * 8})
    ended = program(machine, "--strict")
    assert ended.code == Exit.MET
    assert "too few: 3 more sessions" in ended.out


def test_a_broken_run_is_named_in_one_line_and_left_out(machine, program):
    write_sessions(machine, {MANUAL: [*QUIET, 1000.0, 1000.0]})
    (machine / run_id(3) / "summary.csv").write_text("no table at all", "utf-8")
    ended = program()
    assert ended.code == Exit.MET
    assert ended.err.startswith("harness: left out: ")
    assert ended.err.count("\n") == 1
    assert f"{run_id(3)}/summary.csv" in ended.err
    assert "13 sessions" in ended.out


def test_runs_of_another_fingerprint_are_named_as_left_out(machine, program):
    write_sessions(machine, {MANUAL: [900.0] * 3}, fingerprint="old", environment="torch=2.12.0; cpus=2")
    write_run(machine, 50, {MANUAL: 1000.0}, environment="torch=2.13.0; cpus=2")
    assert "left out: 3 runs of another fingerprint, old (torch: 2.12.0, here 2.13.0)" in program().out


def test_json_is_json_and_markdown_is_markdown(machine, program):
    write_sessions(machine, {MANUAL: [*QUIET, 1050.0, 1050.0]})
    told = program("--format", "json")
    assert told.code == Exit.MISSED
    assert json.loads(told.out)["cases"][0]["status"] == "slower"
    assert len(json.loads(told.out)["runs"]) == 14
    marked = program("--format", "markdown")
    assert marked.code == Exit.MISSED
    assert marked.out.startswith("### ✗ ")


def test_without_stored_runs_there_is_one_line(program, machine):
    assert_refused(program(), "results: there is no such folder", "harness run")
    machine.mkdir(parents=True)
    assert_refused(program(), "results: has no stored runs")
    assert_refused(program("none"), "none: there is no such folder")


def test_several_machines_are_listed_with_what_to_say(machine, program):
    for name in (MACHINE, "nvidia-h200"):
        write_run(machine.parent / name, 0, {MANUAL: 1000.0})
    assert_refused(program(), f"2 machines: {MACHINE}, nvidia-h200", f"harness history results/{MACHINE}")


def test_where_no_run_can_be_read_each_is_named_and_so_is_the_folder(machine, program):
    write_run(machine, 0, {MANUAL: 1000.0})
    (machine / run_id(0) / "summary.csv").write_text("", "utf-8")
    ended = program()
    assert (ended.code, ended.out) == (Exit.USAGE, "")
    assert [line.split(": ")[1] for line in ended.err.splitlines()] == ["left out", f"results/{MACHINE}"]


def test_nothing_is_written(machine, program):
    write_sessions(machine, {MANUAL: QUIET})
    before = sorted(machine.parent.rglob("*"))
    for form in ("terminal", "markdown", "json"):
        program("--format", form)
    assert sorted(machine.parent.rglob("*")) == before


def test_a_wrong_format_is_a_usage_error(program):
    assert_refused(program("--format", "html"), "--format", "html")
