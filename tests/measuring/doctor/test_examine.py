import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.measuring.doctor import examine
from tests.measuring.doctor.faultless import MACHINE, OK, Root


def test_a_machine_without_a_fault_has_nothing_to_advise(root):
    findings = root.findings()
    assert {(found.severity, found.advice) for found in findings} == {(OK, "")}
    assert {found.what for found in findings} == {
        *("torch", "compiler", "cache folder", "environment", "cores", "hyperthreads", "CPU quota", "throttling"),
        *("load", "steal", "memory", "swap", "frequency governor", "turbo", "clock"),
    }


def test_every_fault_comes_with_what_to_do(root, monkeypatch):
    root.now({"sys/fs/cgroup/cpu.max": "50000 100000", "proc/self/status": "TracerPid:\t17\n"})
    root.now({"sys/devices/system/cpu/intel_pstate/no_turbo": "0"})
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    faults = [found for found in root.findings() if found.severity != OK]
    assert len(faults) == 4
    assert all(found.advice for found in faults)


def test_it_waits_half_a_second_and_not_where_nothing_is_counted(root, tmp_path):
    waits: list[float] = []
    examine("cpu", root.folder, sleep=waits.append)
    assert waits == [0.5]
    examine("cpu", tmp_path / "nothing", sleep=waits.append)
    assert waits == [0.5]


def test_it_looks_at_a_machine_that_has_no_torch():
    code = "import sys; sys.modules['torch'] = None; import harness.measuring.doctor as d; d.examine('cuda')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(harness.__file__).parents[1])


def test_what_comes_from_outside_stays_on_its_line_and_commands_no_terminal(root, monkeypatch):
    monkeypatch.setenv("TORCH_LOGS", "a\nb\x1b[2J" + "x" * 100)
    root.now({"sys/devices/system/clocksource/clocksource0/current_clocksource": "odd\x1b]0;clock\x07\nsource"})
    (said,) = (found.found for found in root.findings() if found.what == "environment")
    assert said.startswith("TORCH_LOGS=a b?[2Jxxx")
    assert len(said) < 120
    assert all(found.found.isprintable() for found in root.findings())


# Systems that say less, or nonsense.


@pytest.mark.parametrize("has_affinity", [True, False])
def test_a_system_that_says_nothing_gets_fewer_lines(tmp_path, monkeypatch, has_affinity):
    if not has_affinity:  # macOS
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
    findings = examine("cpu", tmp_path / "nothing")
    assert [found.what for found in findings] == ["torch", "compiler", "cache folder", "environment", "cores", "clock"]
    assert {found.severity for found in findings} == {OK}


@pytest.mark.parametrize(
    "nonsense", ["", "\n", "garbage", "a\n\nb", "-1", "²", "cpu0", "cpu0 a b c d e f g h", "::", "pswpin", "nan nan"]
)
def test_nonsense_in_any_file_is_never_an_error(root, nonsense):
    for number, name in enumerate(MACHINE):
        other = Root(root.folder.parent / f"{number}")
        other.now({name: nonsense})
        other.later = {}
        assert other.findings()


def test_a_folder_in_place_of_every_file_is_never_an_error(root):
    for name in MACHINE:
        root.without(name)
        (root.folder / name).mkdir()
    root.later = {}
    assert root.findings()


def test_this_machine_itself_is_looked_at(monkeypatch):
    monkeypatch.undo()
    findings = examine()
    assert {"torch", "compiler", "cache folder", "cores", "clock"} <= {found.what for found in findings}
    assert all(bool(found.advice) == (found.severity != OK) for found in findings)
    assert all("\n" not in found.found + found.advice for found in findings)
