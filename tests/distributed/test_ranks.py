"""Two ranks for real: what they agree on, how their cases end, and that nothing of them is left."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.distributed.conftest import Machine

ROOT = Path(__file__).parents[2]
HANG_S = 20.0  # of a phase, while another case is measured
TIMES = {"step_ns", "step_median_ns", "step_min_ns", "blocks_ns", "timed_ns", "latency_ns"}


# Cases that end badly. The honest ones come after them, and are as if nothing had been.


ENDINGS = {
    "Raises": (
        "crashed",
        "in phase gate: rank 1 exited with code 1: crashed: ValueError: no such layer: Swish (users.py:",
    ),
    "DoesNotSynchronise": ("wrong_gradient", "rank 0: update 1: "),
    "DriftsByOneBit": ("wrong_gradient", "rank 1 has another 0.weight than rank 0"),
    "IsKilledWhileTimed": ("crashed", "in phase timing: rank 1 was killed by SIGKILL"),
    "SynchronisesInTheGateOnly": ("rejected", "while timed, "),
}


@pytest.fixture(scope="module", autouse=True)
def hanging(tmp_path_factory):
    """A case that hangs, and the future record of it: it is waited for while the others are measured."""
    machine = Machine(tmp_path_factory.mktemp("hanging"))
    with ThreadPoolExecutor(1) as pool:
        yield machine, pool.submit(machine.measure, "Hangs", timeout_s=HANG_S)


def assert_ended_badly(record, outcome, reason):
    assert record["outcome"] == outcome, record["reason"]
    assert reason in record["reason"]
    assert not TIMES & set(record)


@pytest.mark.parametrize("engine", ENDINGS)
def test_a_rank_that_ends_badly_ends_the_case_with_its_reason_and_leaves_nobody(engine, machine):
    assert_ended_badly(machine.measure(engine), *ENDINGS[engine])
    assert machine.left_behind() == []


def test_ranks_that_hang_are_a_timeout_and_leave_nobody(hanging):
    machine, future = hanging
    assert_ended_badly(future.result(), "timeout", f"took longer than {HANG_S:g} s in phase gate")
    assert machine.left_behind() == []


MEASURE = """
import sys
from pathlib import Path
from tests.distributed.conftest import Machine

Machine(Path(sys.argv[1]), sys.argv[2]).measure("Hangs")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_when_the_program_is_killed_no_rank_lives_on(tmp_path):
    machine = Machine(tmp_path, "killed")
    with subprocess.Popen([sys.executable, "-c", MEASURE, str(tmp_path), "killed"], cwd=ROOT) as program:
        wait_until(lambda: len(machine.left_behind()) == 3)  # torchrun and both ranks
        time.sleep(1)
        program.kill()
    wait_until(lambda: not machine.left_behind())


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def honest(machine):
    return machine.measure(seeds=2)


# A case of two ranks that is as it should be


def test_ddp_passes_the_gate_and_is_timed(honest, machine):
    assert (honest["outcome"], honest["reason"]) == ("ok", "")
    assert 0 < honest["gate_share"] <= 1
    assert honest["step_ns"] >= honest["step_min_ns"] > 0
    assert honest["latency_ns"] > 0
    assert len(honest["blocks_ns"]) == honest["blocks"] >= 30
    assert sorted(honest["phases_ns"]) == sorted(
        ("start", "import", "setup", "first_call", "gate", "timing", "gate_after", "convergence", "end", "exit")
    )
    assert machine.left_behind() == []


def test_ranks_converge_as_one_process_does(honest, machine):
    alone = machine.measure("autograd", seeds=2, ranks=1)
    assert alone["workload_digest"] == honest["workload_digest"]
    for one, two in zip(alone["convergence"], honest["convergence"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_each_rank_has_its_own_cpus_and_the_row_has_all(honest):
    cores = len(os.sched_getaffinity(0))
    assert honest["threads"] == 1
    assert len(honest["cpus"]) == min(2, cores)
    assert ("fewer cores than ranks" in honest["disturbances"]) == (cores < 2)


def test_ranks_that_share_a_core_are_measured_and_every_block_says_so(machine):
    record = machine.measure(on_one_cpu=True)
    assert record["outcome"] == "ok", record["reason"]
    assert len(record["cpus"]) == 1
    assert record["disturbances"] == {"fewer cores than ranks": record["blocks"]}


def test_another_engine_is_unsupported_by_its_name(machine):
    record = machine.measure("autograd")
    assert record["outcome"] == "unsupported"
    assert record["reason"] == "engine autograd trains in one process; several ranks take ddp"


# What ranks agree on

AGREE = """
import json, os, sys
import torch
from harness.plan.outcome import CaseEnded, Outcome
from harness.training import ranks

ranks.join(torch.device("cpu"))
rank = ranks.own()
chance = ranks.chance()
said = {"count": ranks.count(), "all": ranks.told_all(rank * 10)}
said["chance"] = [chance.random(), chance.getrandbits(63), chance.randrange(1000), chance.sample(range(100), 5)]

def ending(function):
    try:
        function()
    except CaseEnded as ended:
        return [ended.outcome, ended.reason]

def fault(where):
    with ranks.together():
        if rank in where:
            raise CaseEnded(Outcome.REJECTED, "wrong")

def weights(value):
    ranks.check_same({"bias": torch.ones(3), "weight": torch.tensor([[1.0, value]])}, "update 7: ")

said["nowhere"], said["on one"], said["on both"] = (ending(lambda: fault(where)) for where in ((), (1,), (0, 1)))
for name, values in {"same": (0.5, 0.5), "bit": (1.0, 1.0000001), "zero": (0.0, -0.0), "nan": (torch.nan,) * 2}.items():
    said[name] = ending(lambda: weights(values[rank]))
ranks.wait()
print(json.dumps(said))
"""


def test_ranks_agree_on_chance_on_how_a_case_ends_and_on_weights_to_the_bit():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", AGREE],
            env={**environment, "WORLD_SIZE": "2", "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        first, second = (json.loads(process.communicate(timeout=60)[0]) for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert first == second
    assert (first["count"], first["all"]) == (2, [0, 10])
    assert first["nowhere"] is first["same"] is first["nan"] is None
    assert first["on one"] == ["rejected", "rank 1: wrong"]
    assert first["on both"] == ["rejected", "wrong"]
    assert first["bit"] == first["zero"] == ["wrong_gradient", "update 7: rank 1 has another weight than rank 0"]


# The whole program


def test_a_run_over_ranks_tells_how_well_they_scale(tmp_path):
    command = [sys.executable, "-P", "-m", "tests.short", "run", "--workload", "line", "--engine", "ddp"]
    options = ["--batch-size", "100", "--ranks", "1", "--ranks", "2", "--rounds", "1", "--seeds", "16", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": "/"}
    done = subprocess.run(
        [*command, *options, "--threads", "1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [summary] = (tmp_path / "out").glob("*/*/summary.csv")
    with summary.open(newline="") as file:
        one, two = csv.DictReader(file)
    assert [one["case_id"], two["case_id"]] == [f"line/ddp/cpu/float32/b100/t1{end}" for end in ("", "/r2")]
    assert [(row["ranks"], row["batch_per_rank"]) for row in (one, two)] == [("1", "100"), ("2", "50")]
    efficiency = float(two["scaling_efficiency"])
    assert efficiency == pytest.approx(float(one["step_ns"]) / (2 * float(two["step_ns"])), rel=1e-3)
    assert one["scaling_efficiency"] == two["scaling_low"] == two["scaling_high"] == ""  # of a single round
    assert float(one["loss_p50"]) == pytest.approx(float(two["loss_p50"]), rel=1e-3)
