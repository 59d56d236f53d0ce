"""`harness explain`: real processes where something is measured."""

import json
import subprocess
import sys

import pytest

from harness.cli import main
from harness.cli.interrupt import Interrupts
from harness.plan.case import Case
from harness.plan.errors import PlanError


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_case_is_measured_and_explained_by_what_was_counted():
    done = explain("line/autograd/cpu/float32/b10", "--format", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = {part["name"] for part in told["inside"]["parts"]}
    assert "aten::addmm" in names
    assert told["inside"]["machinery"] > 5  # nodes of the backward pass
    assert told["step_ns"] < told["inside"]["profiled_ns"]
    assert told["inside"]["allocations"] > 5


def test_a_case_without_a_time_is_told_with_its_reason(tmp_path):
    lazy = tmp_path / "lazy.py"
    lazy.write_text(
        "from harness.training.engines.manual import Manual\n"
        "class Lazy(Manual):\n"
        "    def unsupported(self, problem, case):\n"
        "        return 'not today'\n"
    )
    done = explain(f"line/{lazy}:Lazy/cpu/float32/b10")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("line/lazy.py:Lazy/cpu/float32/b10: unsupported: not today")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("line", "write it as the tables do"),
        ("line/autograd/cpu/float32", "write it as the tables do"),
        ("line/autograd/cpu/float32/b0", "batch size"),
        ("line/autograt/cpu/float32/b10", "did you mean 'autograd'"),
        ("line/ddp/cpu/float32/b10/r2", "leave out /r2"),
        ("line/missing.py:Mine/cpu/float32/b10", "there is no file missing.py"),
    ],
)
def test_what_is_no_case_is_one_line(text, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["harness", "explain", text])
    monkeypatch.setattr(Interrupts, "handle", lambda _: None)  # this process is pytest's
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize(
    "case",
    [
        Case("line", "manual", "cpu", "float32", 100),
        Case("line_deep", "compile_step", "cuda:1", "float64", 1, threads=3, ranks=1),
        Case("line", "ddp", "cuda", "float32", 8, threads=2, ranks=4),
    ],
)
def test_the_name_of_a_case_is_read_back(case):
    assert Case.named(case.case_id) == case


def test_own_files_are_named_with_their_path(tmp_path):
    for name in ("mine.py", "fast.py"):
        (tmp_path / name).touch()
    case = Case.named(f"{tmp_path}/mine.py:Mine/{tmp_path}/fast.py:Fast/cpu/float32/b7/t2")
    assert (case.workload, case.engine) == (f"{tmp_path}/mine.py:Mine", f"{tmp_path}/fast.py:Fast")
    assert case.case_id == "mine.py:Mine/fast.py:Fast/cpu/float32/b7/t2"


def test_a_name_that_is_too_long_is_one_line():
    with pytest.raises(PlanError, match="write it as the tables do"):
        Case.named("a/" * 5000)
