"""The real program with real processes: killed, gone on with, interrupted, and given engines that misbehave.

One run serves nearly all claims: its first case is honest, the others misbehave each in its own way. It is killed
during the second case; interrupts are tried on copies of what is left, and then it is gone on with to its end.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.plan.sweep import Axes, Sweep, plan_sweep
from harness.running.journal import FILE
from harness.running.records import read_journal
from harness.tables.columns import CONVERGENCE, MEASUREMENTS, SUMMARY

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]

ENGINES = """
import os, time
import torch

class Misbehaves:
    def unsupported(self, problem, case):
        return None

class Raises(Misbehaves):
    def prepare(self, problem, steps):
        raise ValueError("no such layer: Swish")  # line 11

class Exits(Misbehaves):
    def prepare(self, problem, steps):
        os._exit(3)

class WantsAllMemory(Misbehaves):
    def prepare(self, problem, steps):
        return torch.empty(10**14)

class NeverEnds(Misbehaves):
    def prepare(self, problem, steps):
        while True:
            time.sleep(1)
"""
TIMEOUT_S = 6  # importing torch is a phase too, and may take long where other things run

# In every Python started from here: a worker leaves its process id as the name of a file.
NOTICE = """
import os, sys
if "harness.measuring.worker" in sys.orig_argv:
    open(os.path.join(os.environ["WORKERS_STARTED"], str(os.getpid())), "x").close()
"""


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def wait_until(happened, what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"in vain waited until {what}"
        time.sleep(0.02)


@dataclass
class Place:
    """A folder in which the program is started, outside any repository."""

    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        (self.folder / "workers").mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(self.folder / "notice"))),
            "WORKERS_STARTED": str(self.folder / "workers"),
            "HARNESS_REVISION": "c" * 40,
            "GIT_CEILING_DIRECTORIES": str(self.folder.parent),
        }
        return subprocess.Popen(
            (sys.executable, "-P", "-m", "tests.short", "run", *arguments),
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs these tests in the background has SIGINT ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def workers(self) -> set[int]:
        """The process ids of the workers that were started here."""
        return {int(path.name) for path in (self.folder / "workers").iterdir()}


@dataclass
class Ended:
    """How the program ended."""

    code: int
    out: str
    err: str

    @classmethod
    def of(cls, process: subprocess.Popen[str], timeout_s: float = 120.0) -> "Ended":
        out, err = process.communicate(timeout=timeout_s)
        return cls(process.returncode, out, err)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "engines.py").write_text(ENGINES)
    (folder / "notice").mkdir()
    (folder / "notice/sitecustomize.py").write_text(NOTICE)
    names = ("Raises", "Exits", "WantsAllMemory", "NeverEnds")
    engines = ["manual", *(f"{folder}/engines.py:{name}" for name in names)]
    sweep = folder / "sweep.toml"
    sweep.write_text(f"rounds = 1\nseeds = 4\n[[grid]]\nworkload = 'line'\nbatch_size = 100\nengine = {engines}\n")
    honest_first = next(seed for seed in itertools.count() if begins_honestly(plan_sweep(sweep, Axes()), seed))
    sweep.write_text(f"order_seed = {honest_first}\n{sweep.read_text()}")
    return Place(folder)


def begins_honestly(sweep: Sweep, order_seed: int) -> bool:
    _, first = next(replace(sweep, order_seed=order_seed).schedule())
    return first.engine == "manual"


@dataclass
class Killed:
    """What kill -9 during the second case left."""

    folder: Path
    journal: bytes
    orphan: int
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def killed(place):
    process = place.start("--sweep", "sweep.toml", "--out", "out", "--json")
    wait_until(lambda: len(place.workers()) == 1, "the first case starts")
    first = place.workers()
    wait_until(lambda: len(place.workers()) == 2, "the second case starts")
    process.kill()
    ended = Ended.of(process)
    assert ended.err == ""
    [folder] = place.folder.glob("out/*/*")
    [orphan] = place.workers() - first
    events = [json.loads(line) for line in ended.out.splitlines()]
    return Killed(folder, (folder / FILE).read_bytes(), orphan, events)


@pytest.fixture(scope="module")
def resumed(place, killed):
    with (killed.folder / FILE).open("ab") as journal:
        journal.write(b'{"kind": "record", "case_id": "li')  # as if it had been killed while it wrote
    before = place.workers()
    ended = Ended.of(place.start("--resume", str(killed.folder), "--timeout", str(TIMEOUT_S)))
    return ended, len(place.workers() - before)


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv").set_index("engine", drop=False)


# Killed


def test_kill_9_during_the_second_case_keeps_the_record_of_the_first(killed):
    header, entries = read_journal(killed.folder)
    assert header["run_id"] == killed.folder.name
    assert [entry["kind"] for entry in entries] == ["attempt", "record", "attempt"]
    assert [(entry["case_id"], entry.get("outcome")) for entry in entries[:2]] == [
        ("line/manual/cpu/float32/b100", None),
        ("line/manual/cpu/float32/b100", "ok"),
    ]


def test_whoever_reads_the_events_has_heard_of_all_that_happened_until_then(killed):
    at = [event["event"] for event in killed.events].index("case_finished")
    (begin, started, *phases), finished, after = killed.events[:at], killed.events[at], killed.events[at + 1]
    assert begin["event"] == "begin"
    assert Path(begin["folder"]).name == killed.folder.name
    assert begin["processes"] == 5
    case = {"case_id": "line/manual/cpu/float32/b100", "round": 0}
    assert started == {"event": "case_started", **case}
    names = ("import", "setup", "first_call", "gate", "timing", "gate_after", "convergence", "end", "floor")
    said = [event["phase"] for event in phases]
    assert said == [name for name in names if name in said]
    assert {"import", "gate", "timing", "convergence"} <= set(said)
    assert all(event == {"event": "phase_started", **case, "phase": event["phase"]} for event in phases)
    assert finished.items() >= {"event": "case_finished", **case, "outcome": "ok", "reason": ""}.items()
    assert finished["step_ns"] > 0
    assert 0 <= finished["disturbed_share"] <= 1
    assert finished["seconds"] > 0
    assert after["event"] == "case_started"
    assert after["case_id"] != case["case_id"]


# Interrupted


@pytest.mark.parametrize(
    ("signals", "gap_s"),
    [
        ((signal.SIGINT,), 0),
        ((signal.SIGTERM,), 0),
        ((signal.SIGINT, signal.SIGINT), 0.001),  # as from a terminal, once by itself and once handed on by nox
        ((signal.SIGINT, signal.SIGINT), 0.3),  # as from somebody impatient
    ],
    ids=["SIGINT", "SIGTERM", "SIGINT twice at once", "SIGINT twice"],
)
def test_an_interrupted_run_keeps_what_is_finished_writes_its_tables_and_says_how_to_go_on(
    place, killed, tmp_path, signals, gap_s
):
    folder = tmp_path / killed.folder.name
    shutil.copytree(killed.folder, folder)
    before = place.workers()
    process = place.start("--resume", str(folder))
    wait_until(lambda: place.workers() - before, "a worker starts")
    for number in signals:
        process.send_signal(number)
        time.sleep(gap_s)
    ended = Ended.of(process)

    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert f"harness: interrupted; go on with: harness run --resume {folder}" in ended.err.splitlines()
    [worker] = place.workers() - before
    assert not running(worker)
    again = killed.journal.splitlines(keepends=True)[-1]  # the case that was running is begun once more
    assert (folder / FILE).read_bytes() == killed.journal + again
    assert list(table(folder, "measurements")["outcome"]) == ["ok"]
    outcomes = table(folder, "summary")["outcome"]
    assert outcomes.pop("manual") == "ok"
    assert len(outcomes) == 4
    assert set(outcomes) == {"interrupted"}
    assert "interrupted" in ended.out


# Gone on with


def test_going_on_measures_only_what_is_missing(killed, resumed):
    ended, workers = resumed
    assert workers == 4
    assert "Traceback" not in ended.err
    journal = (killed.folder / FILE).read_bytes()
    assert journal.startswith(killed.journal)
    assert len({record["case_id"] for record in read_journal(killed.folder)[1]}) == 5


def test_at_the_end_every_table_has_every_case(killed, resumed):
    engines = {"manual"} | {f"engines.py:{name}" for name in ("Raises", "Exits", "WantsAllMemory", "NeverEnds")}
    assert set(table(killed.folder, "summary").index) == engines
    assert set(table(killed.folder, "measurements").index) == engines
    assert list(table(killed.folder, "convergence")["seed"]) == [0, 1, 2, 3]
    for name, columns in (("measurements", MEASUREMENTS), ("convergence", CONVERGENCE), ("summary", SUMMARY)):
        assert list(table(killed.folder, name).columns) == [column.name for column in columns]


OF_A_GPU = {
    *("device_ns", "kernel_ns", "kernels_per_step", "launches_per_step", "graph_launches_per_step", "device_note"),
    *("energy_per_step_j", "peak_allocated_bytes", "peak_reserved_bytes"),
    *("sm_clock_mhz", "gpu_temperature_c", "power_limit_w", "gpu_processes", "ceiling_launch_ns"),
}


def test_each_row_of_an_honest_case_is_filled(killed, resumed):
    measured = table(killed.folder, "measurements").loc["manual"]
    empty = {name for name in measured.index if pd.isna(measured[name])}
    assert empty - {"disturbances"} == {"reason", "first_call_cold_ns", "node", *OF_A_GPU}
    assert measured["run_id"] == killed.folder.name
    assert measured["commit"] == "c" * 40
    assert measured["step_min_ns"] <= measured["step_ns"] <= measured["step_median_ns"]


def test_no_time_is_below_the_floor(killed, resumed):
    summary = table(killed.folder, "summary")
    honest = summary.loc["manual"]
    assert honest["above_floor"] == pytest.approx(honest["step_ns"] / honest["floor_ns"])
    assert honest["above_floor"] >= 1
    assert summary.drop("manual")["floor_ns"].isna().all()


@pytest.mark.parametrize(
    ("engine", "outcome", "reason"),
    [
        ("Raises", "crashed", "ValueError: no such layer: Swish (engines.py:11)"),
        ("Exits", "crashed", "exited with code 3 in phase setup: it said nothing"),
        ("WantsAllMemory", "out_of_memory", None),
        ("NeverEnds", "timeout", f"took longer than {TIMEOUT_S} s in phase setup"),
    ],
)
def test_an_engine_that_misbehaves_is_a_row_with_outcome_and_reason_and_no_time(
    killed, resumed, engine, outcome, reason
):
    for name in ("measurements", "summary"):
        row = table(killed.folder, name).loc[f"engines.py:{engine}"]
        assert row["outcome"] == outcome
        assert row["reason"] == (reason or row["reason"])
        assert len(row["reason"].splitlines()) == 1
        assert pd.isna(row["step_ns"])
    assert any(f"engines.py:{engine} " in line and outcome in line for line in resumed[0].out.splitlines())


def test_a_run_with_failed_cases_exits_with_1_and_shows_the_others_times(resumed):
    ended, _ = resumed
    assert ended.code == 1
    [shown] = [line for line in ended.out.splitlines() if " manual " in line and " ok " in line]
    assert "µs" in shown


def test_a_worker_whose_parent_was_killed_ends_by_itself(killed, resumed):
    wait_until(lambda: not running(killed.orphan), "the worker ends", timeout_s=20)
