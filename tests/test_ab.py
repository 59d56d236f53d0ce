"""`harness ab` as a user calls it, in a real repository of this program.

There, every revision has a worker of its own: one that imports no torch and answers at once, with the time that
`harness/training/speed.py` of its revision says. So what is compared shows which code ran. The last test is a real one.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import harness
from harness.cli import main
from harness.measuring.machine import describe_machine, fingerprint, slug
from harness.measuring.protocol import PROTOCOL
from harness.running.records import read_journal
from harness.tables.columns import NOISE, SCHEMA
from tests.pseudo_terminal import Terminal, colours

PACKAGE = Path(harness.__file__).parent
ROOT = PACKAGE.parent

WORKER = """
import json, math, os, random, sys, time
from pathlib import Path
from harness.measuring.protocol import PROTOCOL, EventStream, Request, claim_stdout
from harness.training import speed

events = claim_stdout()
events.send("hello", protocol=PROTOCOL)
request = Request.from_line(sys.stdin.readline())
time.sleep(float(os.environ.get("WORKER_S", 0)))
engine = request.case.engine
chance = random.Random(f"{Path(__file__).parents[2].name} {engine} {request.round}")
record = {"outcome": "ok", "reason": "", "threads": 1, "workload_digest": speed.DIGEST}
if engine in speed.FAILS:
    record |= {"outcome": "wrong_gradient", "reason": "it is wrong"}
else:
    record["step_ns"] = speed.STEP_NS * math.exp(0.003 * chance.gauss())
if request.seeds:
    row = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
    record["convergence"] = [{"seed": seed, **row} for seed in range(request.seeds)]
    record["convergence_targets"] = {
        "max_loss": 0.1, "min_accuracy": 0.9, "min_converged_share": 0.75, "max_median_loss": 0.05,
        "min_median_accuracy": 0.9,
    }
events.send("record", record=record)
"""
SPEED = {"STEP_NS": 1000.0, "FAILS": (), "DIGEST": "d"}
REVISIONS = {
    "fast": {},
    "slow": {"STEP_NS": 1100.0},
    "wrong": {"FAILS": ("manual",)},
    "another": {"DIGEST": "e"},
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Nothing of the repository or the terminal in which the tests run; signals are given back to pytest."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("HARNESS_REVISION", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.check_output(["git", "-C", folder, *who, *arguments], text=True).strip()


def commit(folder: Path, tag: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", f"--message={tag}")
    git(folder, "tag", tag)


def speed(**changes: object) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in {**SPEED, **changes}.items())


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository of this program with a tag for each of REVISIONS, and some more."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(PACKAGE, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "harness/measuring/worker.py").write_text(WORKER)
    git(folder, "init", "--quiet")
    for tag, changes in REVISIONS.items():
        (folder / "harness/training/speed.py").write_text(speed(**changes))
        commit(folder, tag)
    (folder / "harness/training/speed.py").write_text(speed())
    (folder / "harness/measuring/worker.py").write_text(WORKER + "# measures otherwise\n")
    commit(folder, "otherwise")
    protocol = folder / "harness/measuring/protocol.py"
    protocol.write_text(protocol.read_text().replace(f"PROTOCOL = {PROTOCOL}", f"PROTOCOL = {PROTOCOL + 1}"))
    commit(folder, "protocol")
    shutil.rmtree(folder / "harness")
    commit(folder, "none")
    return folder


@pytest.fixture
def here(repository, tmp_path, monkeypatch) -> Path:
    """Stand in a clone of it, with temporary files in a folder that nothing else uses."""
    subprocess.run(["git", "clone", "--quiet", "--shared", repository, tmp_path / "here"], check=True)
    monkeypatch.chdir(tmp_path / "here")
    git(tmp_path / "here", "checkout", "--quiet", "fast")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "here"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def program(monkeypatch, capsys):
    """Call the program in this process."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def ab(here, program):
    """Call `harness ab`: it leaves the repository as it was, and nothing in the temporary folder."""

    def call(*arguments: object) -> Ended:
        before = git(here, "status", "--porcelain", "--", ":!results"), git(here, "worktree", "list")
        ended = program("ab", *arguments)
        assert (git(here, "status", "--porcelain", "--", ":!results"), git(here, "worktree", "list")) == before
        assert list((here.parent / "temporary").iterdir()) == []
        return ended

    return call


CASE = "line/manual/cpu/float32/b100"
FEW = ("--engine", "manual", "--rounds", "5", "--seeds", "4")


def kept(here: Path) -> list[Path]:
    """The folders of the runs in `results`, in the order in which they were made."""
    return sorted(here.glob("results/*/*"), key=lambda folder: (len(folder.name), folder.name))


def header(folder: Path) -> dict:
    return read_journal(folder)[0]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "measurements.csv")


# What it says


def test_a_commit_that_is_slower_is_a_regression_of_two_runs_in_one_session(here, ab):
    (here / "results").mkdir()
    ended = ab("fast", "slow", *FEW, "--engine", "autograd", "--format", "json", "--output", "results/it.md")
    assert ended.code == 1, ended.err
    cases = {case["case_id"]: case for case in json.loads(ended.out)["cases"]}
    assert list(cases) == [CASE, "line/autograd/cpu/float32/b100"]
    for case in cases.values():
        assert case["status"] == "regressed"
        assert case["change"] == pytest.approx(0.1, abs=0.01)
        assert (case["rounds_base"], case["rounds_new"]) == (5, 5)
    assert "regress" in (here / "results/it.md").read_text()

    folders = {header(folder)["commit"]: folder for folder in kept(here)}
    base, new = (folders[git(here, "rev-parse", f"{tag}^{{commit}}")] for tag in ("fast", "slow"))
    assert len(folders) == 2
    assert f"kept in {base.relative_to(here)} and {new.relative_to(here)}" in ended.err.splitlines()
    for folder, step_ns in ((base, 1000), (new, 1100)):
        assert header(folder)["run_id"] == folder.name
        assert header(folder)["session"] == f"{base.name}-ab"
        assert set(table(folder)["session"]) == {f"{base.name}-ab"}
        assert table(folder)["step_ns"].tolist() == pytest.approx([step_ns] * 10, rel=0.02)
        assert len(pd.read_csv(folder / "convergence.csv")) == 8
        assert json.loads((folder / "machine.json").read_text())["torch"]


def test_a_commit_against_itself_is_no_regression_and_neither_side_can_be_resumed(here, ab, program):
    ended = ab("fast", "fast", *FEW, "--strict")
    assert (ended.code, "no regression" in ended.out) == (0, True), ended.err
    assert len(kept(here)) == 2
    for folder in kept(here):
        ended = program("run", "--resume", folder)
        assert (ended.code, ended.out) == (2, "")
        [line] = ended.err.splitlines()
        assert "is one side of an A/B run, which cannot be resumed: start `harness ab` again" in line


def test_what_is_not_committed_is_compared_as_it_stands(here, ab):
    (here / "harness/training/speed.py").write_text(speed(STEP_NS=900.0))
    ended = ab("fast", "worktree", *FEW)
    assert (ended.code, "improved" in ended.out) == (0, True), ended.err
    assert "not committed" not in ended.err
    assert sorted(header(folder)["dirty"] for folder in kept(here)) == [False, True]


@pytest.fixture
def terminal():
    """A pty."""
    pty = Terminal(100, 30)
    yield pty
    pty.close()


def test_a_terminal_shows_both_arms_of_a_case_and_no_colour_where_nobody_wants_it(ab, monkeypatch, terminal):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal.file() as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        patch.setattr(sys, "stderr", file)
        ended = ab("fast", "slow", *FEW)
    seen = terminal.seen()
    assert ended.code == 1
    assert colours(terminal.sent) == []
    assert f"{CASE} of fast" in terminal.sent
    assert re.search(r"of slow +4/5  1\.\d+ µs  \d\.\d% of 4", terminal.sent)
    assert seen[0].startswith("kept in ")
    assert not any(line.startswith("round ") for line in seen)
    assert any("regressed" in line for line in seen)
    assert terminal.cursor_shown


def test_with_a_margin_a_smaller_change_does_not_count(ab):
    ended = ab("fast", "slow", *FEW, "--margin", "20", "--strict")
    assert (ended.code, "no regression" in ended.out) == (0, True), ended.err


def test_the_spread_is_that_which_the_machine_was_measured_to_have(here, ab):
    facts = describe_machine("cpu")
    known = {"case_id": CASE, "machine": slug(facts), "fingerprint": fingerprint(facts), "spread": 0.004}
    known |= {"workload": "line", "engine": "manual", "device": "cpu", "dtype": "float32", "batch_size": 100}
    known |= {"schema": SCHEMA, "rounds": 20, "run_id": "r", "commit": "c", "dirty": False}
    folder = here / "results" / slug(facts)
    folder.mkdir(parents=True)
    pd.DataFrame({column.name: [known.get(column.name, "")] for column in NOISE}).to_csv(folder / "noise.csv")
    ended = ab("fast", "fast", *FEW, "--format", "json")
    [case] = json.loads(ended.out)["cases"]
    assert (case["spread_from"], case["spread"]) == ("noise", 0.004)


def test_a_case_that_is_right_in_the_base_only_is_a_regression_and_is_not_measured_on(here, ab):
    ended = ab("fast", "wrong", *FEW)
    assert (ended.code, "lost" in ended.out) == (1, True), ended.err
    assert [len(table(folder)) for folder in kept(here)] == [1, 1]


def test_a_case_that_is_wrong_in_both_is_no_regression(here, ab):
    ended = ab("wrong", "wrong", *FEW, "--engine", "autograd")
    assert (ended.code, "failing" in ended.out) == (0, True), ended.err
    assert sorted(len(table(folder)) for folder in kept(here)) == [6, 6]


def test_another_workload_is_not_comparable_and_that_is_told_after_one_round(here, ab):
    ended = ab("fast", "another", *FEW)
    assert ended.code == 3
    assert "workload: d and e" in ended.err
    assert [len(table(folder)) for folder in kept(here)] == [1, 1]


def test_revisions_that_measure_otherwise_are_told_so(ab):
    ended = ab("wrong", "otherwise", *FEW)
    assert (ended.code, "fixed" in ended.out) == (0, True)
    note = "harness: the arms do not measure alike: harness/measuring/ differs in worker.py"
    assert note in ended.err.splitlines()


def test_an_engine_that_one_revision_does_not_have_is_left_out_and_told(here, ab):
    catalogue = here / "harness/plan/catalogue.py"
    catalogue.write_text(catalogue.read_text().replace('    "autograd": Entry(', '    "renamed": Entry('))
    ended = ab("wrong", "worktree", *FEW, "--engine", "autograd")
    assert (ended.code, "fixed" in ended.out) == (0, True)
    assert "harness: 'worktree' has no engine autograd: it is left out" in ended.err.splitlines()
    assert [set(table(folder)["engine"]) for folder in kept(here)] == [{"manual"}, {"manual"}]


def test_the_plan_of_two_arms_takes_twice_the_time_and_measures_nothing(here, ab):
    ended = ab("fast", "slow", "--dry-run", "--engine", "manual", "--rounds", "40", "--seeds", "1")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        CASE,
        "1 cases × 40 rounds × 2 arms, convergence over 1 seeds: about 4 min on 2 cores",
    ]
    assert ended.err == ""
    assert not (here / "results").exists()


@pytest.mark.parametrize(("names", "without"), [(("slow", "HEAD"), "HEAD"), (("fast", "slow"), "fast")])
def test_a_commit_that_is_checked_out_is_said_to_be_without_what_is_not_committed(here, ab, names, without):
    (here / "harness/training/speed.py").write_text(speed(STEP_NS=900.0))
    ended = ab(*names, "--dry-run")
    assert ended.code == 0
    assert ended.err == (f"harness: what is not committed is left out of {without!r}: to compare it, name `worktree`\n")
    for others in (("fast", "worktree"), ("slow", "wrong")):
        assert ab(*others, "--dry-run").err == ""


# Interpreters


def interpreter(folder: Path, here: Path, torch: str, step_ns: float) -> Path:
    """An interpreter that has another torch, as far as it says, and this program with a worker of that speed."""
    shutil.copytree(here / "harness", folder / "site/harness")
    (folder / "site/harness/training/speed.py").write_text(speed(STEP_NS=step_ns))
    info = folder / f"site/torch-{torch}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: torch\nVersion: {torch}\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_two_interpreters_may_differ_in_what_they_have_and_that_is_told(here, ab, tmp_path):
    pythons = []
    for name, torch, step_ns in (("old", "2.12.0", 1000.0), ("new", "2.13.1", 1050.0)):
        (tmp_path / name).mkdir()
        pythons += ["--python", interpreter(tmp_path / name, here, torch, step_ns)]
    ended = ab(*pythons, *FEW)
    assert (ended.code, "regressed" in ended.out) == (1, True), ended.err
    assert "torch: 2.12.0 and 2.13.1" in ended.out
    assert "of torch 2.12.0 ok" in ended.err
    assert {header(folder)["commit"] for folder in kept(here)} == {git(here, "rev-parse", "HEAD")}
    assert [header(folder)["environment"]["torch"] for folder in kept(here)] == ["2.12.0", "2.13.1"]


# Refused


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "name two arms: BASE NEW"),
        (("fast",), 2, "name two arms: BASE NEW, two git revisions; NEW may be `worktree`"),
        (("fast", "slow", "wrong"), 2, "got 'fast', 'slow', 'wrong'"),
        (("--python", sys.executable), 2, "name two arms: --python twice"),
        (("fast", "slow", "--python", "a", "--python", "b"), 2, "not both"),
        (("--torch", "2.13.0", "--torch", "2.12.0"), 2, "nox -s ab -- --torch 2.13.0 --torch 2.12.0"),
        (("fast", "nowhere"), 2, "unknown revision 'nowhere'"),
        (("nowhere", "fast", "--dry-run"), 2, "unknown revision 'nowhere'"),
        (("fast", "slow", "--rounds", "4"), 2, "4 is not in the range 5<=x<=1000"),
        (("fast", "slow", "--engine", "manuel"), 2, "did you mean 'manual'?"),
        (("fast", "slow", "--device", "cuda"), 2, "device cuda: "),
        (("fast", "slow", "--output", "none/a.md"), 2, "none/a.md: cannot be written: make its folder first"),
        (("fast", "slow", "--out", "harness/__init__.py"), 2, "--out harness/__init__.py: cannot be written to"),
        (("--python", sys.executable, "--python", "no-python"), 2, "--python 'no-python': there is no such program"),
        (("fast", "protocol"), 3, f"'protocol' speaks protocol {PROTOCOL + 1} and this program {PROTOCOL}"),
        (("fast", "none"), 3, "none has no harness/measuring/worker.py, which fast has"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line_before_anything_is_measured(here, ab, arguments, code, told):
    ended = ab(*arguments)
    assert (ended.code, ended.out) == (code, "")
    [line] = ended.err.splitlines()
    assert line.startswith("harness: ")
    assert told in line
    assert kept(here) == []


def test_outside_any_repository_there_are_no_revisions(program, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    ended = program("ab", "HEAD", "HEAD")
    assert ended.code == 2
    assert ended.err.startswith(f"harness: {tmp_path}/elsewhere is in no git repository")


def test_a_repository_of_which_nothing_would_be_run_is_refused_before_anything_is_measured(
    program, monkeypatch, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    git(own, "init", "--quiet")
    (own / "mine.py").touch()
    commit(own, "v1")
    monkeypatch.chdir(own)
    ended = program("ab", "v1", "worktree", *FEW)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "harness: nothing of 'v1' would be run, as this Python imports nothing from it: `pip install -e .` or set "
        "PYTHONPATH, or name a file in the repository, --engine FILE.py:Name\n"
    )
    assert kept(own) == []


# Interrupted


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-P", "-m", "harness", "ab", *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs these tests in the background has SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_rounds(here: Path, rounds: int, process: subprocess.Popen[str]) -> None:
    """Wait until both runs have the table of so many rounds."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        tables = [folder / "measurements.csv" for folder in kept(here)]
        if len(tables) == 2 and all(path.exists() and len(pd.read_csv(path)) >= rounds for path in tables):
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"there are no {rounds} rounds: {process.communicate()[1]}")


@pytest.mark.parametrize(("number", "rounds"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_what_an_interrupt_leaves_is_kept_and_compared_where_it_can_be(here, number, rounds):
    with start("fast", "slow", *FEW, "--rounds", "1000", WORKER_S="0.3") as process:
        wait_for_rounds(here, rounds, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "harness: interrupted; what is finished is kept, and an A/B run cannot be gone on with" in err.splitlines()
    assert all(len(table(folder)) >= rounds for folder in kept(here))
    assert (CASE in out) == (rounds > 1)
    assert list((here.parent / "temporary").iterdir()) == []
    assert git(here, "worktree", "list").count("\n") == 0
    assert left_running(here) == []


def left_running(here: Path) -> list[int]:
    """The processes that have this test's temporary folder in their environment."""
    wanted, left = f"={here.parent / 'temporary'}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found = wanted in path.read_bytes()
        except OSError:
            continue
        if found:
            left.append(int(path.parent.name))
    return left


# Measured really

ENGINE = """
import time
from harness.training.engines.manual import Manual

class Mine(Manual):
    def prepare(self, problem, steps):
        return Updates(super().prepare(problem, steps))

class Updates:
    def __init__(self, updates):
        self._updates = updates
        self.load, self.parameters = updates.load, updates.parameters

    def __call__(self, inputs, targets):
        end = time.perf_counter_ns() + {wasted_ns} * len(inputs)
        losses = self._updates(inputs, targets)
        while time.perf_counter_ns() < end:
            pass
        return losses
"""


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="measures, so it needs torch")
def test_a_users_own_engine_in_their_own_repository_is_measured_as_each_revision_has_it(tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "bench").mkdir(parents=True)
    git(own, "init", "--quiet")
    for tag, wasted_ns in (("v1", 0), ("v2", 300_000)):
        (own / "bench/engine.py").write_text(ENGINE.format(wasted_ns=wasted_ns))
        commit(own, tag)
    monkeypatch.chdir(own / "bench")
    with start("v1", "v2", "--engine", "engine.py:Mine", "--seeds", "1", "--out", str(own / "results")) as process:
        wait_for_rounds(own, 1, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    base, new = sorted(kept(own), key=lambda folder: header(folder)["commit"] != git(own, "rev-parse", "v1^{commit}"))
    assert {*table(base)["outcome"], *table(new)["outcome"]} == {"ok"}
    assert {*table(base)["case_id"], *table(new)["case_id"]} == {"line/engine.py:Mine/cpu/float32/b100"}
    assert table(base)["step_ns"].max() < 290_000 < 300_000 <= table(new)["step_ns"].min()
    assert {header(folder)["session"] for folder in (base, new)} == {f"{base.name}-ab"}
