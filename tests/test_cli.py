import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import harness.measuring.doctor as doctor
import harness.running.session as sessions
from harness import __version__
from harness.cli import Exit, main
from harness.cli.finished import verdict
from harness.measuring.machine import describe_machine
from harness.plan.case import Case
from harness.plan.sweep import Axes, Sweep, plan_sweep
from harness.plan.targets import ThroughputTarget
from harness.running.folder import Revision
from harness.running.launcher import Launcher
from harness.running.session import Machine, Session
from harness.tables.build import build_tables
from harness.tables.columns import SCHEMA
from harness.tables.files import Tables, read_table, write_tables

RUN_TABLES = [part.name for part in fields(Tables)]

ROOT = Path(sys.modules["harness"].__file__).parents[1]
AUTOGRAD = Case("line", "autograd", "cpu", "float32", 100)
MANUAL = Case("line", "manual", "cpu", "float32", 100)
SWEEP = Sweep((MANUAL, AUTOGRAD), rounds=3, targets=(ThroughputTarget("manual", 2.0),))
HERE = Machine({"torch": "2.13.0+cpu"}, "amd-epyc-9654-2c", "00aa11bb22cc")
COMMIT = Revision("c0ffee" * 6 + "c0de", dirty=False)
GRID = '[[grid]]\nworkload = ["line"]\nengine = ["autograd"]\nbatch_size = [10]\n'
TARGETS = {
    "max_loss": 0.1,
    "min_accuracy": 0.9,
    "min_converged_share": 0.75,
    "max_median_loss": 0.05,
    "min_median_accuracy": 0.9,
}
SEED = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
# Settings of whoever runs the tests that would change what the program prints.
NOT_OURS = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "HARNESS_REVISION")
FAST = (300.0, 303.0, 297.0)
SLOW = (1000.0, 1010.0, 990.0)

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="measures, so it needs torch")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Stand in an empty folder that is no repository; give signals back to pytest afterwards."""
    for name in NOT_OURS:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def program(monkeypatch, capsys):
    """Run the program in this process, without any worker."""

    def no_worker(*_: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr(Launcher, "measure", no_worker)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def python(*arguments: object, cwd: Path | None = None, **environment: str) -> Ended:
    """Run another Python that finds this program."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def assert_refused(ended: Ended, *texts: str, code: Exit = Exit.USAGE) -> None:
    """Assert that it ended with this code and one line on stderr that holds these texts."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert ended.err.startswith("harness: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    for text in texts:
        assert text in ended.err


# Stored runs, made by hand


def record(case: Case, number: int, step_ns: float, seeds: int = 64, **facts: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "record", "case_id": case.case_id, "round": number, "outcome": "ok", "reason": ""}
    found |= {"threads": 2, "seconds": 5.0, "step_ns": step_ns, "blocks": 40, "blocks_disturbed": 0}
    if number == 0:
        found["convergence"] = [{"seed": seed, **SEED} for seed in range(seeds)]
        found["convergence_targets"] = TARGETS
    return {**found, **facts}


def rounds(case: Case, steps_ns: Sequence[float], **facts: Any) -> list[dict[str, Any]]:
    return [record(case, number, step_ns, **facts) for number, step_ns in enumerate(steps_ns)]


def failed(case: Case, outcome: str, reason: str) -> dict[str, Any]:
    return {
        "kind": "record",
        "case_id": case.case_id,
        "round": 0,
        "outcome": outcome,
        "reason": reason,
        "seconds": 1.0,
    }


def header(folder: Path, sweep: Sweep, **changes: Any) -> dict[str, Any]:
    at = {
        "commit": COMMIT.commit,
        "dirty": False,
        "changes": "",
        "files": {},
        "machine": HERE.slug,
        "fingerprint": HERE.fingerprint,
    }
    return {
        "kind": "run",
        "format": 1,
        "run_id": "20261124T090511Z-0123456789",
        **at,
        "sweep": sweep.to_json(),
        **changes,
    }


def stored_run(folder: Path, records: Sequence[Mapping[str, Any]], sweep: Sweep = SWEEP, **changes: Any) -> Path:
    """Make the folder of a run of which these records were measured."""
    folder.mkdir(parents=True)
    lines = [header(folder, sweep, **changes), *records]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_tables(folder, build_tables(lines[0], records))
    return folder


@pytest.fixture
def this_is_the_machine(monkeypatch):
    """Let every run be of the machine and commit that the stored runs are of."""
    monkeypatch.setattr(sessions, "this_machine", lambda _sweep: HERE)
    monkeypatch.setattr(sessions, "revision", lambda _where: COMMIT)


@pytest.fixture
def finish(program, this_is_the_machine, tmp_path):
    """Return a function that ends a run, of which everything is measured, the way `harness run` does."""

    def resume(records: Sequence[Mapping[str, Any]], *flags: object, sweep: Sweep = SWEEP) -> Ended:
        return program("run", "--resume", stored_run(tmp_path / "run", records, sweep), *flags)

    return resume


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--engine", "autograt"], ["unknown engine 'autograt'", "did you mean 'autograd'?"]),
        (["--workload", "lime"], ["unknown workload 'lime'", "did you mean 'line'?"]),
        (["--engine", "own.py:Mine"], ["engine 'own.py:Mine'", "there is no file own.py"]),
        (["--batch-size", "0"], ["batch size 0", "from 1 to"]),
        (["--batch-size", "-1"], ["batch size -1", "from 1 to"]),
        (["--batch-size", "1000000000000"], ["batch size 1000000000000", "from 1 to"]),
        (["--batch-size", "ten"], ["--batch-size", "'ten'", "integer"]),
        (["--batch-size", "1e12"], ["--batch-size", "'1e12'", "integer"]),
        (["--batch-size", "10", "--batch-size", "0"], ["batch size 0"]),
        (["--threads", "0"], ["threads 0", "from 1 to"]),
        (["--device", "mps"], ["'mps'", "Apple"]),
        (["--device", "rocm"], ["'rocm'", "ROCm"]),
        (["--device", "gpu"], ["'gpu'", "cpu, cuda or cuda:N"]),
        (["--dtype", "bf16"], ["'bf16'", "did you mean 'bfloat16'?"]),
        (["--preset", "lazy"], ["--preset", "'lazy'", "quick"]),
        (["--rounds", "0"], ["rounds 0", "from 1 to"]),
        (["--rounds", "0", "--preset", "standard"], ["rounds 0", "from 1 to"]),
        (["--seeds", "0"], ["seeds 0", "from 1 to"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--timeout", "-5"], ["--timeout"]),
        (["--timeout", "nan"], ["--timeout"]),
        (["--timeout", "inf"], ["--timeout"]),
        (["--timeout", "1000000000000"], ["--timeout"]),
        (["--colour", "red"], ["--colour"]),
        (["line"], ["line"]),
        (["--sweep", "none.toml"], ["none.toml", "No such file"]),
        (["--baseline", "none"], ["none is no run and no CSV file, and git says of no revision here"]),
        (["--baseline", "none.csv"], ["none.csv", "No such file"]),
        (["--baseline", "."], [". is no folder of a run: it has no measurements.csv"]),
        (["--address", "10.0.0.1:6379"], ["--address", "add --on ray"]),
        (["--on", "slurm"], ["--on", "'slurm'", "ray"]),
        (["--on", "ray", "--baseline", "none"], ["--baseline is of one machine"]),
        (["--on", "ray", "--profile-run"], ["--profile-run is of one machine"]),
        (["--on", "ray", "--device", "cuda:1"], ["--device cuda:1", "use --device cuda"]),
        (["--on", "ray", "--address", "head"], ["--address 'head'", "as host:port"]),
        (["--on", "ray", "--shard", "0/2"], ["--shard is of a machine that works by itself", "leave one out"]),
        (["--on", "ray", "--publish", "there"], ["--publish is of a machine that works by itself"]),
        (
            [
                "--on",
                "ray",
                *("--workload", "line", "--engine", "ddp", "--batch-size", "100"),
                "--device=cuda",
                "--ranks=2",
            ],
            ["--ranks 2", "one GPU", "on one machine"],
        ),
        (["--on", "ray", "--address", "ray://head:10001"], ["--address 'ray://head:10001'", "as host:port"]),
        (["--resume", "none"], ["none is no results folder"]),
        (["--resume", "."], [". is no results folder"]),
        (["--resume", "none", "--engine", "manual"], ["--resume", "leave out --engine"]),
        (["--resume", "none", "--sweep", "none.toml"], ["--resume", "leave out --sweep\n"]),
        (["--resume", "none", "--rounds", "5"], ["--resume", "leave out --rounds"]),
    ],
    ids=lambda value: " ".join(value) if value[0][:2] == "--" else "",
)
def test_wrong_input_gets_one_line_and_exit_code_2_and_nothing_is_written(arguments, texts, program, here):
    ended = program("run", *arguments, *(["--out", "out"] if "--resume" not in arguments else []))
    assert_refused(ended, *texts)
    assert files(here) == []


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("[[grid]", ["sweep.toml: is not valid TOML"]),
        ("", ["sweep.toml", "needs at least one [[grid]]"]),
        ("colour = 'red'\n" + GRID, ["unknown key 'colour'"]),
        (GRID + "colour = 'red'", ["unknown key 'colour'"]),
        (GRID.replace("[10]", "['ten']"), ["batch size 'ten'"]),
        (GRID.replace("[10]", "[]"), ["batch_size"]),
        ("rounds = '3'\n" + GRID, ["rounds '3'"]),
        (GRID + "[[target]]\nengine = 'manual'\nmin_ratio_to_autograd = 'two'", ["min_ratio_to_autograd"]),
    ],
    ids=["broken", "empty", "unknown key", "unknown axis", "wrong type", "empty axis", "wrong rounds", "wrong target"],
)
def test_a_sweep_file_that_cannot_be_followed_is_refused_in_one_line(text, texts, program, here):
    (here / "sweep.toml").write_text(text)
    assert_refused(program("run", "--sweep", "sweep.toml", "--out", "out"), *texts)
    assert files(here) == [here / "sweep.toml"]


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(device, program, here, monkeypatch):
    monkeypatch.setenv("PATH", str(here))  # no nvidia-smi
    monkeypatch.setattr(sessions, "describe_machine", lambda device: {**describe_machine(device), "torch": "2.13.0"})
    assert_refused(program("run", "--device", device, "--out", "out"), device, "no NVIDIA GPU", "--device cpu")
    assert files(here) == []


def test_without_ray_a_run_on_a_cluster_says_how_to_get_it_and_writes_nothing(program, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it then fails, whether it is installed or not
    monkeypatch.setattr(os, "environ", os.environ.copy())
    ended = program("run", "--on", "ray", "--out", "out")
    assert_refused(ended, "--on ray needs Ray: pip install -e '.[ray]'")
    assert files(here) == []


def test_without_torch_a_run_says_how_to_get_it_and_writes_nothing(program, here, monkeypatch):
    monkeypatch.setattr(sessions, "describe_machine", lambda _device: {"cpu_model": "AMD EPYC"})
    assert_refused(program("run", "--out", "out"), "torch is not installed", "nox")
    assert files(here) == []


@pytest.mark.parametrize("out", ["file", "file/sub", "file/sub/sub"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    out, program, here, this_is_the_machine
):
    (here / "file").write_text("a file")
    assert_refused(program("run", "--out", out), f"--out {out}", "cannot be written to")
    assert files(here) == [here / "file"]
    assert (here / "file").read_text() == "a file"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no /proc")
def test_a_folder_that_nobody_can_write_to_is_refused(program, this_is_the_machine):
    assert_refused(program("run", "--out", "/proc/results"), "--out /proc/results", "cannot be written to")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is damaged"),
        ("no JSON\n", "is damaged"),
        ('{"kind": "record"}\n', "is damaged"),
        ("[]\n", "is damaged"),
        ('{"kind": "run"}\n', "another version"),
        ('{"kind": "run", "sweep": {"cases": []}}\n', "another version"),
    ],
    ids=["empty", "text", "no header", "list", "no sweep", "other sweep"],
)
def test_a_folder_with_a_journal_that_is_none_cannot_be_resumed(content, text, program, here):
    (here / "journal.jsonl").write_text(content)
    assert_refused(program("run", "--resume", "."), text)
    assert files(here) == [here / "journal.jsonl"]
    assert (here / "journal.jsonl").read_text() == content


@pytest.mark.parametrize("command", ["show", "crossover"])
def test_a_folder_that_holds_runs_or_a_proof_is_said_to_be_none(command, program, tmp_path):
    for name in ("20261124T000000Z-a", "20261125T000000Z-b"):
        stored_run(tmp_path / "machine" / name, rounds(AUTOGRAD, SLOW))
    newest = tmp_path / "machine/20261125T000000Z-b"
    assert_refused(program(command, tmp_path / "machine"), f"is no run but holds 2; the newest is {newest}")
    (tmp_path / "mistakes.csv").write_text("")
    assert_refused(program(command, tmp_path), "is a proof and no run")


def test_a_wrong_flag_is_not_said_to_be_the_standard_sweep_s(program, here):
    ended = program("run", "--workload", "lin", "--dry-run")
    assert_refused(ended, "unknown workload 'lin': did you mean 'line'?")
    assert "standard" not in ended.err


def test_a_table_of_a_newer_version_is_refused_by_every_command_that_reads_one(program, here, tmp_path):
    newer = stored_run(tmp_path / "newer", rounds(AUTOGRAD, SLOW))
    for name in RUN_TABLES:
        pd.read_csv(newer / f"{name}.csv").assign(schema=SCHEMA + 1).to_csv(newer / f"{name}.csv", index=False)
    refusal = (f"schema {SCHEMA + 1}", f"up to {SCHEMA}", "update")
    assert_refused(program("show", newer), "summary.csv", *refusal)
    assert_refused(program("run", "--baseline", newer, "--out", "out"), "measurements.csv", *refusal)
    assert files(here) == []


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["runn"], ["No such command 'runn'"]),
        (["--colour"], ["--colour"]),
        (["list", "engine"], ["'engine'", "engines", "workloads"]),
        (["list"], ["engines", "workloads"]),
        (["show"], ["RUN"]),
        (["show", "none"], ["none", "No such file"]),
        (["show", "."], ["summary.csv", "No such file"]),
    ],
    ids=lambda value: " ".join(value) if not value[0][0].isupper() else "",
)
def test_a_command_line_that_makes_no_sense_gets_one_line_too(arguments, texts, program):
    assert_refused(program(*arguments), *texts)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--engine", "autograt"], ["unknown engine 'autograt'", "did you mean 'autograd'?"]),
        (["--batch-size", "1000000000000"], ["batch size 1000000000000"]),
        (["--batch-size", "ten"], ["'ten'"]),
        pytest.param(["--device", "cuda"], ["device cuda", "no NVIDIA GPU"], marks=needs_torch),
        (["--sweep", "sweep.toml"], ["sweep.toml", "is not valid TOML"]),
        (["--baseline", "none.csv"], ["No such file"]),
    ],
    ids=lambda value: value[0],
)
def test_the_program_itself_refuses_in_one_line_without_a_traceback(arguments, texts, here):
    (here / "sweep.toml").write_text("[[grid]")
    ended = python("-m", "harness", "run", *arguments, "--out", "out", PATH=str(here))
    assert_refused(ended, *texts)
    assert files(here) == [here / "sweep.toml"]


@needs_torch
def test_the_program_itself_refuses_a_folder_below_a_file(here):
    (here / "file").touch()
    assert_refused(python("-m", "harness", "run", "--out", "file/sub"), "--out file/sub", "Not a directory")
    assert files(here) == [here / "file"]


# The exit code


def summary(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["engine", "outcome", "targets_met"])


OK = ("autograd", "ok", "yes")


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([OK], Exit.MET),
        ([OK, ("manual", "ok", "")], Exit.MET),
        ([OK, ("manual", "ok", "no")], Exit.MISSED),
        ([OK, ("manual", "ok", "undecided"), ("compile", "ok", "no")], Exit.MISSED),
        ([OK, ("manual", "crashed", "")], Exit.MISSED),
        ([OK, ("manual", "crashed", "yes")], Exit.MISSED),
        ([OK, ("manual", "wrong_gradient", "")], Exit.MISSED),
        ([OK, ("manual", "not_converged", "no")], Exit.MISSED),
        ([OK, ("manual", "rejected", "")], Exit.MISSED),
        ([OK, ("manual", "out_of_memory", "")], Exit.MISSED),
        ([OK, ("manual", "timeout", "")], Exit.MISSED),
        ([OK, ("manual", "interrupted", "")], Exit.MISSED),
        ([OK, ("manual", "unsupported", "")], Exit.MET),
        ([("autograd", "unsupported", ""), ("manual", "unsupported", "")], Exit.MISSED),
    ],
)
def test_a_missed_target_or_a_failed_case_ends_with_1_and_unsupported_alone_does_not(rows, code):
    for strict in (False, True):
        assert verdict(summary(*rows), SWEEP, strict=strict) is code


def test_undecided_is_a_failure_only_where_it_is_asked_for():
    undecided = summary(OK, ("manual", "ok", "undecided"))
    assert verdict(undecided, SWEEP, strict=False) is Exit.MET
    assert verdict(undecided, SWEEP, strict=True) is Exit.UNDECIDED


def test_unsupported_is_a_failure_for_an_engine_that_the_user_named():
    rows = summary(OK, ("own.py:Mine", "unsupported", ""))
    assert verdict(rows, SWEEP, strict=False) is Exit.MET
    assert verdict(rows, replace(SWEEP, named_engines=("manual",)), strict=False) is Exit.MET
    named = replace(SWEEP, named_engines=("manual", "/home/me/own.py:Mine"))
    assert verdict(rows, named, strict=False) is Exit.MISSED


# A whole run, all but the measuring


def test_a_run_that_meets_all_targets_ends_with_0_and_says_where_it_is(finish, tmp_path):
    ended = finish([*rounds(MANUAL, FAST), *rounds(AUTOGRAD, SLOW)])
    assert ended.code == Exit.MET
    assert "manual" in ended.out
    assert "MISSED" not in ended.out
    assert ended.out.splitlines()[-1] == f"kept in {tmp_path / 'run'}"
    assert ended.err == ""


def test_a_run_that_misses_a_target_ends_with_1_and_names_it(finish):
    ended = finish([*rounds(MANUAL, SLOW), *rounds(AUTOGRAD, SLOW)])
    assert ended.code == Exit.MISSED
    assert f"MISSED {MANUAL.case_id}: ratio_to_autograd >= 2: 1.00 [1.00, 1.00]" in ended.out


def test_a_run_with_a_case_that_crashed_ends_with_1_and_says_why(finish):
    ended = finish([failed(MANUAL, "crashed", "ValueError: [red] is no [1, 2]"), *rounds(AUTOGRAD, SLOW)])
    assert ended.code == Exit.MISSED
    assert f"crashed {MANUAL.case_id}: ValueError: [red] is no [1, 2]" in ended.out.splitlines()


def test_a_run_with_an_unsupported_case_ends_with_0_unless_it_was_named(finish, program, tmp_path):
    records = [failed(MANUAL, "unsupported", "no rule for LayerNorm"), *rounds(AUTOGRAD, SLOW)]
    ended = finish(records)
    assert ended.code == Exit.MET
    assert f"unsupported {MANUAL.case_id}: no rule for LayerNorm" in ended.out
    named = stored_run(tmp_path / "named", records, replace(SWEEP, named_engines=("manual", "autograd")))
    assert program("run", "--resume", named).code == Exit.MISSED


def test_a_run_with_few_seeds_ends_with_0_and_strictly_with_4(finish, program, tmp_path):
    ended = finish([*rounds(MANUAL, FAST, seeds=8), *rounds(AUTOGRAD, SLOW)])
    assert ended.code == Exit.MET
    assert f"UNDECIDED {MANUAL.case_id}: converged_share >= 0.75: 1.000" in ended.out
    assert program("run", "--resume", tmp_path / "run", "--strict").code == Exit.UNDECIDED


def test_a_quiet_run_prints_only_what_is_wrong(finish, program, tmp_path):
    ended = finish([*rounds(MANUAL, FAST), *rounds(AUTOGRAD, SLOW)], "--quiet")
    assert (ended.code, ended.out, ended.err) == (Exit.MET, "", "")
    broken = stored_run(tmp_path / "broken", [failed(MANUAL, "timeout", "took too long"), *rounds(AUTOGRAD, SLOW)])
    ended = program("run", "--resume", broken, "--quiet")
    assert (ended.code, ended.out, ended.err) == (Exit.MISSED, f"timeout {MANUAL.case_id}: took too long\n", "")


def events_of(ended: Ended) -> list[dict[str, Any]]:
    return [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        for line in ended.out.splitlines()
    ]


@pytest.mark.parametrize(
    ("manual", "flags", "code", "status"),
    [(FAST, (), Exit.MET, "met"), (SLOW, (), Exit.MISSED, "missed"), (FAST, ("--quiet", "--strict"), Exit.MET, "met")],
)
def test_for_machines_a_run_is_lines_of_json_and_nothing_else(finish, tmp_path, manual, flags, code, status):
    ended = finish([*rounds(MANUAL, manual), *rounds(AUTOGRAD, SLOW)], "--json", *flags)
    assert (ended.code, ended.err) == (code, "")
    begin, *skipped, verdict = events_of(ended)
    assert (begin["event"], begin["folder"], begin["processes"]) == ("begin", str(tmp_path / "run"), 6)
    assert [each["event"] for each in skipped] == ["case_skipped"] * 6
    assert (verdict["event"], verdict["exit_code"], verdict["folder"]) == ("verdict", code, str(tmp_path / "run"))
    assert [row["case_id"] for row in verdict["rows"]] == [MANUAL.case_id, AUTOGRAD.case_id]
    assert list(verdict["rows"][0]) == list(read_table(tmp_path / "run", "summary").columns)
    assert verdict["rows"][0]["step_ns"] == pytest.approx(sum(manual) / 3, rel=1e-3)
    assert status in {each["status"] for each in verdict["targets"] if each["case_id"] == MANUAL.case_id}
    assert verdict["compared"] is verdict["wall_seconds"] is None


def test_for_machines_an_interrupted_run_has_a_verdict_and_one_line_says_how_to_go_on(finish, monkeypatch, tmp_path):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "measure", interrupted)
    ended = finish(rounds(AUTOGRAD, SLOW), "--json")
    assert ended.code == Exit.INTERRUPTED
    assert ended.err == f"harness: interrupted; go on with: harness run --resume {tmp_path / 'run'}\n"
    begin, verdict = events_of(ended)
    assert (begin["event"], verdict["exit_code"]) == ("begin", Exit.INTERRUPTED)
    assert [row["outcome"] for row in verdict["rows"]] == ["interrupted", "ok"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--engine", "autograt"], Exit.USAGE), (["--resume", "none"], Exit.USAGE), (["--rounds", "0"], Exit.USAGE)],
)
def test_for_machines_an_error_is_one_line_as_well(program, here, arguments, code):
    assert_refused(program("run", "--json", *arguments), code=code)


def test_for_machines_a_plan_is_one_object_and_a_shard_without_cases_a_verdict_without_rows(program, here):
    one = ("run", "--json", "--workload", "line", "--engine", "manual", "--batch-size", 10, "--rounds", 5)
    [plan] = events_of(program(*one, "--dry-run"))
    assert (plan["event"], plan["cases"], plan["processes"]) == ("plan", 1, 5)
    assert [case["case_id"] for case in plan["case_list"]] == ["line/manual/cpu/float32/b10"]
    empty = [program(*one, "--shard", f"{index}/2", "--dry-run") for index in range(2)]
    [verdict] = [event for ended in empty for event in events_of(ended) if event["event"] == "verdict"]
    assert (verdict["rows"], verdict["folder"], verdict["exit_code"]) == ([], None, Exit.MET)
    assert files(here) == []


def test_a_folder_with_a_name_like_markup_is_named_as_it_is(program, this_is_the_machine, here):
    stored_run(here / "[red]" / "run[/]", [*rounds(MANUAL, FAST), *rounds(AUTOGRAD, SLOW)])
    ended = program("run", "--resume", "[red]/run[/]")
    assert ended.code == Exit.MET
    assert ended.out.splitlines()[-1] == "kept in [red]/run[/]"


def test_the_bonus_question_is_answered_where_both_networks_were_trained(finish):
    deep = replace(AUTOGRAD, workload="line_deep")
    ended = finish([*rounds(AUTOGRAD, FAST), *rounds(deep, SLOW)], sweep=Sweep((AUTOGRAD, deep), rounds=3))
    (line,) = [line for line in ended.out.splitlines() if "second hidden layer" in line]
    assert "an update takes 3.33 times as long (autograd, batch " in line


def test_an_interrupted_run_keeps_its_tables_ends_with_130_and_says_how_to_go_on(finish, monkeypatch, tmp_path):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "measure", interrupted)
    ended = finish(rounds(AUTOGRAD, SLOW))
    folder = tmp_path / "run"
    assert ended.code == Exit.INTERRUPTED
    assert ended.err.splitlines() == [f"harness: interrupted; go on with: harness run --resume {folder}"]
    assert read_table(folder, "summary")["outcome"].tolist() == ["interrupted", "ok"]


def test_an_interrupt_while_planning_ends_with_130_and_without_a_word(program, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.cli.measure.plan_sweep", interrupted)
    ended = program("run")
    assert (ended.code, ended.out, ended.err.strip()) == (Exit.INTERRUPTED, "", "")


def test_a_fault_of_the_program_shows_its_traceback_and_ends_with_2_as_no_regression(program, monkeypatch):
    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("harness.cli.measure.plan_sweep", faulty)
    ended = program("run")
    assert (ended.code, ended.out) == (Exit.USAGE, "")
    *traceback, last = ended.err.splitlines()
    assert (traceback[0], traceback[-1]) == ("Traceback (most recent call last):", "ZeroDivisionError")
    assert last.startswith("harness: this is a fault of the program, and no regression: report the lines above")


# Against a baseline


@pytest.fixture
def baseline(tmp_path) -> Path:
    return stored_run(tmp_path / "baseline", [*rounds(MANUAL, FAST), *rounds(AUTOGRAD, SLOW)], run_id="monday")


@pytest.mark.parametrize(
    ("manual", "code", "strictly", "word"),
    [
        (FAST, Exit.MET, Exit.MET, "within"),
        ((200.0, 202.0, 198.0), Exit.MET, Exit.MET, "faster"),
        ((350.0, 352.0, 348.0), Exit.MISSED, Exit.MISSED, "slower"),
        ((326.0, 327.0, 326.5), Exit.MET, Exit.UNDECIDED, "undecided"),
    ],
    ids=["as fast", "faster", "slower", "undecided"],
)
def test_a_case_slower_than_in_the_baseline_ends_with_1(manual, code, strictly, word, finish, program, baseline):
    ended = finish([*rounds(MANUAL, manual), *rounds(AUTOGRAD, SLOW)], "--baseline", baseline)
    assert ended.code == code
    assert any(MANUAL.case_id in line and word in line for line in ended.out.splitlines())
    assert program("run", "--resume", baseline.parent / "run", "--baseline", baseline, "--strict").code == strictly


def test_a_baseline_may_be_a_revision_of_which_it_is_the_newest_run_of_these_cases(finish, tmp_path):
    git = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    for arguments in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "base")):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:10]
    steps = (((300.0, 301.0, 302.0), AUTOGRAD), (FAST, AUTOGRAD), (FAST, replace(AUTOGRAD, workload="line_deep")))
    for day, (times, case) in enumerate(steps, start=24):
        name = f"202611{day}T090511Z-{commit}"
        stored_run(tmp_path / name, rounds(case, times), Sweep((case,), rounds=3), run_id=name)
    ended = finish([*rounds(MANUAL, FAST), *rounds(AUTOGRAD, SLOW)], "--baseline", "HEAD")
    assert f"HEAD (run 20261125T090511Z-{commit}, commit " in ended.out
    assert ended.code == Exit.MISSED


def test_a_run_to_resume_is_no_baseline_of_itself(program, baseline):
    assert_refused(
        program("run", "--resume", baseline, "--baseline", baseline), "is the run to resume; name another one's folder"
    )


def test_for_machines_the_comparison_with_a_baseline_is_part_of_the_verdict(finish, baseline, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    ended = finish([*rounds(MANUAL, SLOW), *rounds(AUTOGRAD, SLOW)], "--baseline", baseline, "--json")
    assert ended.err == ""
    told = events_of(ended)[-1]
    assert told["exit_code"] == ended.code == Exit.MISSED
    assert [case["case_id"] for case in told["compared"]["cases"]] == [MANUAL.case_id, AUTOGRAD.case_id]
    assert (tmp_path / "summary.md").read_text().startswith("### ")


def test_a_case_that_the_baseline_had_and_that_crashes_now_ends_with_1_and_is_named(finish, baseline):
    ended = finish([failed(MANUAL, "crashed", "killed"), *rounds(AUTOGRAD, SLOW)], "--baseline", baseline)
    assert ended.code == Exit.MISSED
    assert any("lost" in line and MANUAL.case_id in line for line in ended.out.splitlines())


def test_a_run_that_misses_its_own_targets_ends_with_1_however_it_stands_against_the_baseline(finish, baseline):
    ended = finish([*rounds(MANUAL, FAST), *rounds(AUTOGRAD, FAST)], "--baseline", baseline)
    assert ended.code == Exit.MISSED
    assert "faster" in ended.out


# `run` has no --vary.
NO_FLAG = "measure without --baseline, then: harness compare BASE NEW --vary"


@pytest.mark.parametrize(
    ("theirs", "texts"),
    [
        ({"machine": "nvidia-h200"}, ["nvidia-h200", HERE.slug]),
        ({"fingerprint": "ffff"}, ["fingerprint", "ffff", HERE.fingerprint]),
        ({"fingerprint": "ffff", "environment": {"torch": "2.12.0"}}, ["torch: 2.12.0 and 2.13.0+cpu", NO_FLAG]),
        ({"dirty": True}, ["uncommitted changes"]),
    ],
    ids=["machine", "fingerprint", "torch", "dirty"],
)
def test_a_baseline_of_other_hardware_ends_with_3_before_anything_is_measured(
    theirs, texts, program, this_is_the_machine, here, tmp_path
):
    other = stored_run(tmp_path / "other", rounds(AUTOGRAD, SLOW), **theirs)
    ended = program("run", "--baseline", other, "--out", "out")
    assert_refused(ended, *texts, code=Exit.NOT_COMPARABLE)
    assert files(here) == []


def test_a_resumed_run_is_not_compared_with_a_baseline_of_other_hardware_either(finish, tmp_path):
    other = stored_run(tmp_path / "other", rounds(AUTOGRAD, SLOW), machine="nvidia-h200")
    ended = finish(rounds(AUTOGRAD, SLOW), "--baseline", other)
    assert_refused(ended, "nvidia-h200", code=Exit.NOT_COMPARABLE)


@pytest.mark.parametrize("name", ["commit", "dirty", "machine", "fingerprint"])
def test_a_run_of_another_commit_or_machine_cannot_be_resumed(name, program, this_is_the_machine, tmp_path):
    theirs = {name: True if name == "dirty" else "another"}
    folder = stored_run(tmp_path / "run", rounds(AUTOGRAD, SLOW), **theirs)
    before = (folder / "journal.jsonl").read_bytes()
    assert_refused(program("run", "--resume", folder), name, str(theirs[name]), code=Exit.NOT_COMPARABLE)
    assert (folder / "journal.jsonl").read_bytes() == before


# What needs no torch


WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
from harness.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "Usage: harness"),
        (["list", "engines"], "autograd"),
        (["list", "workloads"], "line_deep"),
        (["run", "--dry-run"], "line/autograd/cpu/float32/b100"),
        (["show", "RUN"], "autograd"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_without_torch_one_can_still_plan_list_and_look_at_a_stored_run(arguments, text, tmp_path):
    run = stored_run(tmp_path / "run", rounds(AUTOGRAD, SLOW))
    ended = python("-c", WITHOUT_TORCH, *(run if part == "RUN" else part for part in arguments))
    assert ended.code == 0, ended.err
    assert text in ended.out
    assert ended.err == ""
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "engines"]], ids=" ".join)
def test_help_and_lists_load_none_of_the_large_packages(arguments):
    code = f"""
import sys
from harness.cli import main
sys.argv = ["harness", *{arguments}]
try:
    main()
finally:
    print("loaded:", *({{"pandas", "numpy", "scipy", "rich", "torch"}} & sys.modules.keys()))
"""
    ended = python("-c", code)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "loaded:"


# The other commands


def test_a_dry_run_prints_the_cases_and_the_time_they_take_and_writes_nothing(program, here):
    ended = program("run", "--dry-run", "--engine", "manual", "--batch-size", "7", "--preset", "standard")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[:2] == ["line/manual/cpu/float32/b7", "line_deep/manual/cpu/float32/b7"]
    assert ended.out.splitlines()[2].startswith("2 cases × 5 rounds, convergence over 64 seeds: about 1 min")
    assert files(here) == []


@pytest.mark.parametrize(
    ("flags", "count"),
    [([], 3), (["--preset", "rigorous"], 12), (["--preset", "rigorous", "--rounds", "2"], 2), (["--rounds", "7"], 7)],
)
def test_rounds_win_over_the_preset_and_the_preset_over_the_default(flags, count, program):
    assert f"× {count} rounds" in program("run", "--dry-run", *flags).out


def test_a_dry_run_without_flags_is_of_the_standard_sweep(program):
    cases = [case.case_id for case in plan_sweep(None, Axes()).cases]
    *listed, cost, everything = program("run", "--dry-run").out.splitlines()
    assert listed == cases
    assert cost.startswith(f"{len(cases)} cases × 3 rounds")
    count = len(plan_sweep(None, Axes(engine=("all",))).cases)
    assert everything.startswith(f"--engine all: {count} cases, about ")
    assert count > len(cases)


def test_a_dry_run_of_chosen_engines_tells_nothing_of_all(program):
    assert "--engine all" not in program("run", "--dry-run", "--engine", "manual").out


def test_a_stored_run_is_shown_from_its_folder_and_from_its_summary(program, tmp_path):
    run = stored_run(tmp_path / "run", [*rounds(MANUAL, SLOW), *rounds(AUTOGRAD, SLOW)])
    from_folder, from_file = program("show", run), program("show", run / "summary.csv")
    assert from_folder == from_file
    assert from_folder.code == 0
    assert f"MISSED {MANUAL.case_id}: ratio_to_autograd >= 2" in from_folder.out
    assert "\x1b" not in from_folder.out


def test_the_lists_have_a_line_for_every_engine_and_workload_with_its_summary(program):
    for what, name, words in (("engines", "manual", "gradients by hand"), ("workloads", "line_deep", "hidden layer")):
        ended = program("list", what)
        assert ended.code == 0
        (line,) = [line for line in ended.out.splitlines() if line.startswith(f"{name} ")]
        assert words in line


def test_engines_of_an_installed_package_are_listed_and_can_be_planned_with(tmp_path):
    package = tmp_path / "site" / "swift-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: swift\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[gradient_harness.engines]\nswift = swift.engine:Swift\n")
    path = f"{ROOT}{os.pathsep}{package.parent}"
    listed = python("-m", "harness", "list", "engines", PYTHONPATH=path)
    assert any(line.split() == ["swift", "from", "swift.engine:Swift"] for line in listed.out.splitlines())
    planned = python("-m", "harness", "run", "--dry-run", "--engine", "swift", PYTHONPATH=path)
    assert "line/swift/cpu/float32/b100" in planned.out


def test_the_version_is_the_packages(program):
    ended = program("--version")
    assert (ended.code, ended.out.split()) == (0, ["harness,", "version", __version__])


def test_without_a_command_the_help_is_shown_line_by_line(program):
    ended = program()
    assert "Commands:" in (ended.out + ended.err).splitlines()


@pytest.mark.parametrize(
    ("arguments", "gone", "code"),
    [(["show", "run"], "stdout", 0), (["show", "--help"], "stdout", 2), (["show", "nothing"], "stderr", 2)],
)
def test_a_reader_who_has_seen_enough_causes_no_traceback_and_no_1(arguments, gone, code, tmp_path):
    stored_run(tmp_path / "run", rounds(AUTOGRAD, SLOW))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {gone: writing},
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr or "") == (code, "")


def test_signs_that_the_encoding_of_stdout_lacks_are_replaced_and_files_are_not(tmp_path):
    runs = [stored_run(tmp_path / name, rounds(AUTOGRAD, SLOW), run_id=name) for name in ("one", "two")]
    table = tmp_path / "table.md"
    ended = python("-m", "harness", "compare", *runs, "--output", table, PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err) == (0, "")
    assert "?" in ended.out
    assert "µ" in table.read_text("utf-8")


# A real run


@pytest.fixture(scope="module")
def real_run(tmp_path_factory) -> tuple[Ended, Path]:
    """Measure one round of one case, and say where the time went; return how it ended and its folder."""
    where = tmp_path_factory.mktemp("real")
    case = ("--workload", "line", "--engine", "manual", "--batch-size", 100, "--cold", "--profile-run")
    ended = python("-m", "harness", "run", *case, "--rounds", 1, "--seeds", 8, "--out", "out", cwd=where)
    (folder,) = (where / "out").glob("*/*")
    return ended, folder


@needs_torch
def test_a_real_run_ends_with_0_and_shows_and_keeps_what_it_measured(real_run):
    ended, folder = real_run
    assert ended.code == Exit.MET, ended.err
    assert ended.err.startswith("1/1 round 1/1 line/manual/cpu/float32/b100 ok (")
    assert re.search(r" s\), step [0-9.]+ µs$", ended.err)
    assert f"kept in {folder.relative_to(folder.parents[2])}" in ended.out.splitlines()
    names = {path.name for path in folder.iterdir()}
    assert names == {"journal.jsonl", "machine.json", *(f"{name}.csv" for name in RUN_TABLES)}
    (row,) = read_table(folder, "summary").to_dict("records")
    assert (row["engine"], row["outcome"], row["rounds"], row["seeds"]) == ("manual", "ok", 1, 8)
    assert row["step_ns"] > 0
    assert row["commit"] == "unknown"
    assert len(read_table(folder, "measurements")) == 1
    assert len(read_table(folder, "convergence")) == 8


@needs_torch
def test_a_real_run_that_is_complete_is_resumed_without_measuring_again(real_run):
    _, folder = real_run
    before = (folder / "journal.jsonl").read_bytes()
    ended = python("-m", "harness", "run", "--resume", folder, "--strict", "--json")
    assert ended.code == Exit.UNDECIDED, ended.err  # eight seeds decide nothing
    begin, skipped, told = events_of(ended)
    assert (begin["event"], skipped["event"], told["exit_code"]) == ("begin", "case_skipped", Exit.UNDECIDED)
    assert told["rows"][0]["step_ns"] > 0
    assert (folder / "journal.jsonl").read_bytes() == before


@needs_torch
def test_a_run_can_say_where_its_time_went_and_give_every_case_a_cold_cache(real_run) -> None:
    ended, folder = real_run
    assert "% in timed blocks or cold compiles" in ended.out
    shares = [float(line.split()[-1].rstrip("%")) for line in ended.out.splitlines() if line.rstrip().endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=1)
    header = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    assert header["sweep"]["cold"] is True


# The machine against itself


def test_the_noise_of_a_stored_run_is_kept_beside_it_and_measures_nothing(program, tmp_path) -> None:
    folder = tmp_path / "results" / "amd-epyc-9654-2c" / "run"
    steps_ns = [1000.0 * (1 + 0.01 * (-1) ** number) for number in range(12)]
    stored_run(folder, rounds(AUTOGRAD, steps_ns), replace(SWEEP, cases=(AUTOGRAD,), rounds=12))
    ended = program("noise", folder)
    assert ended.code == Exit.MET, ended.err
    assert "rounds a side see 5 % where both sides take turns in one run" in ended.out
    (row,) = read_table(folder.parent / "noise.csv", "noise").to_dict("records")
    assert row["case_id"] == AUTOGRAD.case_id
    assert row["rounds"] == 12
    assert row["spread"] == pytest.approx(1.4826 * 0.01, rel=0.01)


def test_a_baseline_is_judged_by_the_noise_that_was_measured(program, this_is_the_machine, tmp_path) -> None:
    machine = tmp_path / "results" / "amd-epyc-9654-2c"
    alone = replace(SWEEP, cases=(AUTOGRAD,))
    quiet = stored_run(machine / "base", rounds(AUTOGRAD, (1000.0, 1000.0, 1001.0)), alone, run_id="monday")
    slower = stored_run(machine / "new", rounds(AUTOGRAD, (1150.0, 1150.0, 1151.0)), alone)
    arguments = ("run", "--resume", slower, "--baseline", quiet)
    assert program(*arguments).code == Exit.MISSED
    loud = [1000.0 * (1 + 0.05 * (-1) ** number) for number in range(12)]
    stored_run(machine / "loud", rounds(AUTOGRAD, loud), replace(alone, rounds=12))
    assert program("noise", machine / "loud").code == Exit.MET
    assert program(*arguments).code == Exit.MET


def test_noise_of_too_few_rounds_is_refused(program, tmp_path) -> None:
    folder = stored_run(tmp_path / "run", rounds(AUTOGRAD, SLOW))
    assert_refused(program("noise", folder), "10 rounds")
    assert not (tmp_path / "noise.csv").exists()


@pytest.mark.parametrize("count", [0, 9, 1001])
def test_rounds_that_tell_nothing_of_noise_are_refused_before_anything_is_measured(program, here, count) -> None:
    assert_refused(program("noise", "--rounds", count), "--rounds", f"{count} is not in the range 10<=x<=1000")
    assert files(here) == []


def test_an_interrupted_noise_run_ends_with_130_and_says_how_to_go_on(
    program, this_is_the_machine, monkeypatch, tmp_path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "measure", interrupted)
    ended = program("noise", "--engine", "manual", "--batch-size", 100, "--rounds", 10, "--out", tmp_path / "out")
    assert ended.code == Exit.INTERRUPTED
    (folder,) = {journal.parent for journal in (tmp_path / "out").rglob("journal.jsonl")}
    go_on = f"harness run --resume {folder}, then: harness noise {folder}"
    assert ended.err.splitlines() == [f"harness: interrupted; go on with: {go_on}"]
    assert ended.out == ""
    assert not list((tmp_path / "out").rglob("noise.csv"))


def test_noise_says_what_it_would_measure(program) -> None:
    ended = program("noise", "--dry-run", "--engine", "manual")
    assert ended.out.splitlines()[:2] == ["line/manual/cpu/float32/b100", "line/manual/cpu/float32/b1000"]
    assert "2 cases × 20 rounds" in ended.out


# What is wrong with the machine


@pytest.mark.parametrize(("severity", "code"), [("ok", 0), ("warning", 0), ("worthless", 1)])
def test_the_doctor_ends_with_1_only_where_results_would_be_worthless(program, monkeypatch, severity, code) -> None:
    finding = doctor.Finding("load", doctor.Severity(severity), "1.9 of 2 CPUs busy", "wait")
    monkeypatch.setattr(doctor, "examine", lambda _device: [finding])
    ended = program("doctor")
    assert ended.code == code
    assert "1.9 of 2 CPUs busy" in ended.out


def test_the_doctor_examines_this_machine(program) -> None:
    ended = program("doctor")
    assert ended.code in (Exit.MET, Exit.MISSED)
    assert "clock" in ended.out
    assert ended.err == ""


def test_the_doctor_refuses_a_device_that_is_none(program) -> None:
    assert_refused(program("doctor", "--device", "mps"), "Apple")
