"""Runs on a real cluster of three nodes, of which some are lost, and cases that end badly."""

import csv
import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.running.journal import FILE
from tests.ray_cluster.conftest import ROOT, Cluster, Ended, ended

TIMEOUT_S = 20  # of a phase, on a machine that does three things at once
ENGINES = '''
import ctypes
import os
import signal
import time
from pathlib import Path

from harness.training.engines.manual import Manual


class Segfaults(Manual):
    def prepare(self, problem, steps):
        ctypes.string_at(0)


class Hangs(Manual):
    def prepare(self, problem, steps):
        time.sleep(600)


class Waits(Manual):
    """Hangs as long as there is a file."""

    def prepare(self, problem, steps):
        file = Path(__file__).with_name("waits")
        while file.exists():
            file.write_text(str(os.getpid()))
            time.sleep(0.2)
        return super().prepare(problem, steps)


class KillsItsParent(Manual):
    def prepare(self, problem, steps):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
'''
GOOD, BAD, DEADLY = (10, 20), 30, 40  # batch sizes
SWEEP = f"""
rounds = 1
seeds = 2
[[grid]]
workload = ["line"]
engine = ["manual", "autograd"]
batch_size = {list(GOOD)}
[[grid]]
workload = ["line"]
engine = ["ENGINES:Segfaults", "ENGINES:Hangs", "manual"]
batch_size = [{BAD}]
[[grid]]
workload = ["line"]
engine = ["ENGINES:KillsItsParent", "manual"]
batch_size = [{DEADLY}]
"""


def engines(folder: Path) -> Path:
    file = folder / "ends.py"
    file.write_text(ENGINES)
    return file


def run_of(folder: Path) -> Path:
    [run] = (folder / "results").glob("*/*")
    return run


def entries(run: Path, kind: str) -> list[dict]:
    """The whole lines of a journal that are of a kind, as long as it is there."""
    lines = (run / FILE).read_text().splitlines(keepends=True) if (run / FILE).exists() else []
    return [entry for line in lines if line.endswith("\n") and (entry := json.loads(line))["kind"] == kind]


def rows(run: Path, table: str) -> list[dict[str, str]]:
    with (run / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def until(done, within_s: float = 60.0):
    deadline = time.monotonic() + within_s
    while not (found := done()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# What is refused


@pytest.mark.parametrize(
    ("token", "mode"), [("f" * 64, "token"), ("", "disabled")], ids=["a wrong token", "no token at all"]
)
def test_a_cluster_that_asks_for_another_token_is_refused_in_one_line(cluster, tmp_path, token, mode):
    refused = cluster.run(tmp_path, "--engine", "manual", RAY_AUTH_TOKEN=token, RAY_AUTH_MODE=mode)
    assert refused.code == 2, refused.err
    assert refused.err.splitlines() == [
        f"harness: the Ray cluster at {cluster.address} does not let this program in: set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token"
    ]
    assert not (tmp_path / "results").exists()
    assert refused.seconds < 15


def test_an_address_where_nobody_answers_is_refused_in_one_line(cluster, tmp_path):
    refused = cluster.run(tmp_path, "--engine", "manual", "--address", "127.0.0.1:9")
    assert refused.code == 2
    [line] = refused.err.splitlines()
    assert line.startswith("harness: --address 127.0.0.1:9: no Ray cluster can be joined there")
    assert refused.seconds < 20


# A run that loses a node, with a case that crashes, one that hangs and one that kills what runs it on the node


@dataclass(frozen=True)
class Lossy:
    run: Path
    ended: Ended
    lost: str
    case: str


@pytest.fixture(scope="module")
def lossy(cluster: Cluster, tmp_path_factory) -> Lossy:
    """A run during which a node was killed that had finished something of its group, and not all."""
    folder = tmp_path_factory.mktemp("lossy")
    (folder / "sweep.toml").write_text(SWEEP.replace("ENGINES", str(engines(folder))))
    began = time.monotonic()
    with cluster.begun(folder, "--sweep", "sweep.toml", "--timeout", TIMEOUT_S) as process:

        def timed():
            assert process.poll() is None, (folder / "err").read_text()
            found = [entry for run in (folder / "results").glob("*/*") for entry in entries(run, "record")]
            good = tuple(f"/b{size}" for size in GOOD)
            return [entry for entry in found if entry["outcome"] == "ok" and entry["case_id"].endswith(good)]

        record = until(timed)[0]
        cluster.kill(next(key for key in cluster.nodes if key.startswith(record["node"])))
        done = ended(process, folder, began)
    return Lossy(run_of(folder), done, record["node"], record["case_id"])


def test_every_row_is_there_with_the_right_outcome_though_a_node_was_lost(lossy):
    expected = [(f"line/{engine}/cpu/float32/b{size}", "ok") for size in GOOD for engine in ("manual", "autograd")]
    expected += [(f"line/manual/cpu/float32/b{size}", "ok") for size in (BAD, DEADLY)]
    expected += [(f"line/ends.py:Segfaults/cpu/float32/b{BAD}", "crashed")]
    expected += [(f"line/ends.py:Hangs/cpu/float32/b{BAD}", "timeout")]
    expected += [(f"line/ends.py:KillsItsParent/cpu/float32/b{DEADLY}", "crashed")]
    for table in ("measurements", "summary"):
        found = sorted((row["case_id"], row["outcome"]) for row in rows(lossy.run, table))
        assert found == sorted(expected), [row["reason"] for row in rows(lossy.run, table)]
    assert lossy.ended.code == 1


def test_a_case_that_ends_badly_is_a_row_with_its_reason_and_is_not_tried_again(lossy):
    reasons = {row["engine"]: row["reason"] for row in rows(lossy.run, "measurements") if row["reason"]}
    assert reasons["ends.py:Segfaults"] == "killed by SIGSEGV in phase setup"
    assert reasons["ends.py:Hangs"] == f"took longer than {TIMEOUT_S} s in phase setup"
    begun = [entry["case_id"].split("/")[1] for entry in entries(lossy.run, "attempt")]
    assert (begun.count("ends.py:Segfaults"), begun.count("ends.py:Hangs")) == (1, 1)


def test_a_case_that_takes_its_machine_down_twice_is_a_row_and_the_others_are_measured(lossy):
    [row] = [row for row in rows(lossy.run, "measurements") if row["engine"] == "ends.py:KillsItsParent"]
    assert row["reason"].startswith("its machine was lost 2 times while it ran: ")
    assert row["attempts"] == "2"


def test_what_is_compared_is_of_one_machine_and_the_group_of_the_lost_one_began_anew(lossy):
    measured = [row for row in rows(lossy.run, "measurements") if row["outcome"] == "ok"]
    for size in GOOD:
        assert len({row["node"] for row in measured if row["batch_size"] == str(size)}) == 1
    again = [row for row in measured if row["case_id"] == lossy.case]
    assert lossy.lost not in {row["node"] for row in again}
    assert {row["attempts"] for row in again} == {"2"}
    assert sum(entry["case_id"] == lossy.case for entry in entries(lossy.run, "record")) == 2  # one counts
    lost = [entry["case_id"].rpartition("/b")[2] for entry in entries(lossy.run, "lost")]
    assert sorted(lost) == sorted([lossy.case.rpartition("/b")[2], str(DEADLY), str(DEADLY)])
    assert sum("is lost, and " in line for line in lossy.ended.complaints) == 3


def test_every_row_says_what_kind_of_machine_it_is_of(lossy):
    for table in ("measurements", "summary", "convergence"):
        for row in rows(lossy.run, table):
            assert row["machine"] not in ("", "cluster")
            assert len(row["fingerprint"]) == 12
    cpus = {row["node"]: row["environment"] for row in rows(lossy.run, "measurements")}
    assert all(f"cpus={len(os.sched_getaffinity(0))}" in told or "cpus=1" in told for told in cpus.values())
    assert lossy.run.parent.name == "cluster"
    assert "the cluster measures with 3 machines, of 2 kinds: each row says of which" in lossy.ended.err


# A run that is interrupted


def test_an_interrupted_run_ends_its_workers_keeps_its_rows_and_can_be_gone_on_with(cluster, tmp_path):
    file = engines(tmp_path)
    waits = tmp_path / "waits"
    waits.touch()
    plan = ("--workload", "line", "--engine", "manual", "--engine", f"{file}:Waits", "--batch-size", 10)
    with cluster.begun(tmp_path, *plan, "--rounds", 1, "--seeds", 1) as process:
        pid = int(until(waits.read_text))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        interrupted = ended(process, tmp_path, began)
    assert interrupted.code == 130, interrupted.err
    assert interrupted.seconds < 15  # it is asked to end, and needs no force
    until(lambda: not is_running(pid), 5)
    run = run_of(tmp_path)
    assert (
        interrupted.complaints[-1]
        == f"harness: interrupted; go on with: harness run --resume {run.relative_to(tmp_path)} --on ray"
    )
    kept = entries(run, "record")
    assert [entry["outcome"] for entry in kept] == ["ok"]
    assert [row["case_id"] for row in rows(run, "measurements")] == [entry["case_id"] for entry in kept]

    waits.unlink()
    resumed = cluster.run(tmp_path, "--resume", run)
    assert [row["outcome"] for row in rows(run, "summary")] == ["ok", "ok"], resumed.err
    assert len({row["node"] for row in rows(run, "measurements")}) == 1
    assert entries(run, "record")[: len(kept)] == kept


# These come last, as no node is left after them


def test_a_node_with_other_code_is_refused_before_anything_is_measured(cluster, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "harness", other / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "harness/plan/case.py").open("a") as file:
        file.write("# changed\n")
    key = cluster.add(*os.sched_getaffinity(0), path=other)
    refused = cluster.run(tmp_path, "--engine", "manual")
    assert refused.code == 3, refused.err
    [line] = refused.err.splitlines()
    assert f"({key[:12]}) has other code of gradient-harness" in line
    assert line.endswith("install there what is installed here")
    assert not (tmp_path / "results").exists()
    cluster.kill(key)


def test_without_any_machine_left_the_run_ends_in_one_line_and_keeps_what_it_has(cluster, tmp_path):
    waits, file = tmp_path / "waits", engines(tmp_path)
    waits.touch()
    plan = ("--workload", "line", "--engine", f"{file}:Waits", "--batch-size", 10, "--rounds", 1, "--seeds", 1)
    began = time.monotonic()
    with cluster.begun(tmp_path, *plan) as process:
        until(waits.read_text)
        for key in list(cluster.nodes):
            cluster.kill(key)
        left = ended(process, tmp_path, began)
    assert left.code == 2, left.err
    run = run_of(tmp_path)
    assert left.complaints[-1] == (
        "harness: no machine of the cluster is left for line/ends.py:Waits/cpu/float32/b10; what was finished is kept "
        f"in {run.relative_to(tmp_path)}; go on with: harness run --resume {run.relative_to(tmp_path)} --on ray"
    )
    assert [row["outcome"] for row in rows(run, "summary")] == ["interrupted"]
