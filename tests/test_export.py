import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from harness.cli import main

ROOT = Path(sys.modules["harness"].__file__).parents[1]
STORED = ROOT / "results" / "amd-epyc-2c" / "20261124T114830Z-9d137a38a0"


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of the run that is in the repository."""
    return shutil.copytree(STORED, tmp_path / "run")


@pytest.fixture
def export(monkeypatch, capsys):
    """Call `harness export`; return its exit code, what it printed, and what it said on stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def spoil(run: Path, old: str, new: str) -> None:
    file = run / "summary.csv"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def test_a_stored_run_is_printed_whole_in_either_format(run, export) -> None:
    code, out, err = export(run, "--to", "pytest-benchmark")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert len(found["benchmarks"]) == 20
    assert found["machine_info"]["torch"] == "2.13.0+cpu"
    code, out, err = export(run, "--to", "github-action-benchmark")
    assert (code, err) == (0, "")
    assert {each["name"] for each in json.loads(out)} == {each["name"] for each in found["benchmarks"]}


def test_a_table_of_the_folder_names_the_run_as_well(run, export) -> None:
    for table in ("summary.csv", "measurements.csv"):
        code, out, _ = export(run / table, "--to", "github-action-benchmark")
        assert code == 0
        assert len(json.loads(out)) == 20


def test_output_takes_the_place_of_a_file_as_a_whole_and_nothing_is_printed(run, export, tmp_path) -> None:
    file, link = tmp_path / "kept.json", tmp_path / "link.json"
    file.write_text("x" * 10**6, "utf-8")
    link.symlink_to(file)
    assert export(run, "--to", "github-action-benchmark", "--output", link) == (0, "", "")
    assert len(json.loads(file.read_text("utf-8"))) == 20
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.json", "link.json", "run"]


def test_a_pipe_is_written_to_and_stays_one(run, export, tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert export(run, "--to", "github-action-benchmark", "--output", pipe)[0] == 0
        assert json.loads(os.read(reader, 2**16))
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_cases_that_are_left_out_are_named_on_stderr_with_why(run, export) -> None:
    spoil(run, "line,manual,cpu,float32,10,1,ok,", "line,manual,cpu,float32,10,1,crashed,")
    code, out, err = export(run, "--to", "github-action-benchmark")
    assert code == 0
    assert err == "harness: left out: line/manual/cpu/float32/b10 (crashed)\n"
    assert len(json.loads(out)) == 19


def test_a_run_without_any_time_is_refused_in_one_line_and_writes_nothing(run, export, tmp_path) -> None:
    spoil(run, ",1,ok,", ",1,crashed,")
    code, out, err = export(run, "--to", "pytest-benchmark", "--output", tmp_path / "out.json")
    assert (code, out) == (2, "")
    assert err == f"harness: {run}: none of its 20 cases is ok: there is no time to export\n"
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nosuch", "--to", "pytest-benchmark"], "nosuch: cannot be read: No such file or directory"),
        (["."], "--to"),
        ([".", "--to", "excel"], "excel"),
        ([".", "--to", "pytest-benchmark"], "summary.csv: cannot be read"),
        (["mine.csv", "--to", "pytest-benchmark"], "mine.csv is no folder of a run: name that, or its summary.csv or"),
        (["other/run/mine.csv", "--to", "pytest-benchmark"], "other/run/mine.csv is no folder of a run"),
        (["all", "--to", "pytest-benchmark"], f"all is no run but holds 1; the newest is all/{STORED.name}"),
    ],
    ids=["no run", "no format", "unknown format", "no run's folder", "a file", "a file beside a run", "a machine"],
)
def test_what_cannot_be_exported_is_one_line_and_exit_code_2(arguments, text, export, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all").mkdir()
    Path("all", STORED.name).symlink_to(STORED)
    shutil.copytree(STORED, "other/run")
    for file in ("mine.csv", "other/run/mine.csv"):
        Path(file).write_text("a,b\n1,2\n")
    code, out, err = export(*arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.startswith("harness: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("output", ["", "nowhere/out.json", "loop"], ids=["folder", "nowhere", "loop"])
def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_2(output, run, export, tmp_path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, out, err = export(run, "--to", "pytest-benchmark", "--output", f"{tmp_path}/{output}")
    assert (code, out) == (2, "")
    assert err.startswith("harness: --output ")
    assert "cannot be written: " in err
    assert err.count("\n") == 1
