"""What the image stands: no network, no root, signals, limits; its exit codes are the program's."""

import csv
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docker.engine import IMAGE, Place, noxfile

CASE = ("--workload", "line", "--batch-size", "100")
ENGINES = ("manual", "autograd", "compile", "compile_step")
ONE = (*CASE, "--engine", "manual", "--rounds", "1", "--seeds", "1")

ABSENT = """
class Absent:
    def unsupported(self, problem, case):
        return "not here"

    def prepare(self, problem, steps):
        raise NotImplementedError
"""

# More blocks than this were disturbed: somebody else works on this machine, and three rounds may decide nothing.
BUSY_SHARE = 0.1


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def only_run(results: Path) -> Path:
    (folder,) = (run.parent for run in results.glob("*/*/journal.jsonl"))
    return folder


def facts(results: Path) -> dict[str, object]:
    return json.loads((only_run(results) / "machine.json").read_text("utf-8"))


@dataclass(frozen=True)
class Quick:
    ended: subprocess.CompletedProcess[str]
    results: Path


@pytest.fixture(scope="module")
def quick(place) -> Quick:
    """The quick benchmark of all engines, run once."""
    where = place()
    engines = [word for engine in ENGINES for word in ("--engine", engine)]
    return Quick(where.bench(*CASE, *engines, "--rounds", "3", "--seeds", "64"), where.results)


def test_every_target_is_met_without_network_or_root_and_compiled_engines_compile(quick):
    assert quick.ended.returncode == 0, quick.ended.stdout[-4000:] + quick.ended.stderr[-4000:]
    rows = table(only_run(quick.results), "summary")
    assert sorted(row["engine"] for row in rows) == sorted(ENGINES)
    assert {(row["outcome"], row["rounds"]) for row in rows} == {("ok", "3")}
    busy = max(float(row["disturbed_share"]) for row in rows) > BUSY_SHARE
    assert {row["targets_met"] for row in rows} <= {"yes", *(["undecided"] * busy)}, [row["targets"] for row in rows]
    graphs = {row["engine"]: row["graphs"] for row in rows}
    assert float(graphs["compile"]) == float(graphs["compile_step"]) == 1


def test_the_rows_name_the_commit_and_the_facts_the_image(engine, quick):
    revision = noxfile.head_revision()
    rows = table(only_run(quick.results), "measurements")
    assert {row["commit"] + "-dirty" * (row["dirty"] == "True") for row in rows} == {revision}
    digests = json.loads(engine.inspect(IMAGE, "json .RepoDigests")) or ()
    assert facts(quick.results)["image"] in (*digests, engine.inspect(IMAGE, ".Id"))


def test_what_is_written_is_the_callers_and_never_roots(quick):
    owners = {file.stat().st_uid for file in only_run(quick.results).iterdir()}
    assert owners == {noxfile.IMAGE_UID if os.getuid() == 0 else os.getuid()}


def test_a_case_that_fails_ends_with_1(place):
    where = place()
    (where.results / "mine.py").write_text(ABSENT)
    ended = where.bench(*CASE, "--engine", "/results/mine.py:Absent", "--rounds", "1", "--seeds", "1")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert table(only_run(where.results), "summary")[0]["reason"] == "not here"


def test_bad_usage_ends_with_2_and_one_line(place):
    ended = place().bench("--rounds", "0")
    assert ended.returncode == 2
    (line,) = (line for line in ended.stderr.splitlines() if line and not line.startswith("nox > "))
    assert line.startswith("harness: ")


def finished(results: Path) -> int:
    """How many records the journal has."""
    return sum(file.read_text("utf-8").count('"kind": "record"') for file in results.glob("*/*/journal.jsonl"))


def until_a_record(where: Place, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not finished(where.results):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_130_and_keeps_what_is_finished(place, number):
    where = place()
    process = where.start(*CASE, "--engine", "manual", "--rounds", "50", "--seeds", "1")
    try:
        until_a_record(where, process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 130, said
    rows = table(only_run(where.results), "measurements")
    kept = [row for row in rows if row["outcome"] == "ok"]
    assert len(kept) == sum(1 for row in rows if row["step_ns"]) >= 1
    assert "go on with: harness run --resume" in said


@pytest.mark.parametrize("how", ["read-only", "somebody else's"])
def test_results_that_cannot_be_written_are_one_line_and_2(run, tmp_path, how):
    results = tmp_path / "results"
    results.mkdir(mode=0o555)
    options = "ro" if how == "read-only" else "z"
    ended = run("run", *ONE, flags=(f"--volume={results}:/results:{options}",))
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("harness: --out results: cannot be written to: ")
    assert not list(results.iterdir())


def test_limits_are_facts_and_what_they_stop_is_a_disturbance(run, writable, tmp_path):
    limits = ("--cpus=0.5", "--memory=2g", "--shm-size=128m")
    ended = run("run", *ONE, flags=(*limits, *writable))
    assert ended.returncode in (0, 1), ended.stderr  # how fast it is, is not the question
    told = facts(tmp_path / "results")
    assert told["cpu_quota"] == 0.5
    assert told["memory_limit_bytes"] == 2 * 2**30
    assert told["shm_limit_bytes"] == 128 * 2**20
    (row,) = table(only_run(tmp_path / "results"), "measurements")
    assert "throttled" in row["disturbances"]
    for name in ("cpu_quota=0.5", "memory_limit_bytes=2147483648", "shm_limit_bytes=134217728"):
        assert name in row["environment"]


def test_without_limits_none_is_told(quick):
    assert not [name for name in facts(quick.results) if "limit" in name or "quota" in name]
