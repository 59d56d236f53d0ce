import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.engines.numpy import Numpy
from harness.training.gate import check_updates
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")


def case(dtype: str = "float32") -> Case:
    return Case("line", "numpy", "cpu", dtype, 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000])
@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_it_passes_the_gate(workload: str, batch_size: int, dtype: torch.dtype) -> None:
    made = load_workload(workload)
    problem, trial = problem_of(made, batch_size, CPU, dtype), begin(made, batch_size, 3, CPU, dtype)
    assert Numpy().unsupported(problem, case()) is None
    updates = Numpy().prepare(problem, 20)
    updates.load(trial.parameters)
    assert 0 < check_updates(problem, updates, *trial.batches(20)) <= 0.5


def test_float32_sums_over_a_large_batch_stay_within_the_bound() -> None:
    made = load_workload("line")
    problem, trial = problem_of(made, 262_144, CPU, torch.float32), begin(made, 262_144, 3, CPU, torch.float32)
    updates = Numpy().prepare(problem, 20)
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(3)) <= 0.5


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ((nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 2)), nn.MSELoss()),
        ((nn.ReLU(), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)), nn.CrossEntropyLoss()),
    ],
)
def test_every_rule_passes_the_gate(layers: Any, loss: nn.Module) -> None:
    torch.manual_seed(0)
    problem = Problem(nn.Sequential(*layers), loss, 0.1, 37)
    inputs, targets = torch.randn(20, 37, 3), torch.randn(20, 37, 2)
    if isinstance(loss, nn.CrossEntropyLoss):
        targets = torch.randint(4, (20, 37))
    assert Numpy().unsupported(problem, case()) is None
    assert 0 < check_updates(problem, Numpy().prepare(problem, 20), inputs, targets) <= 1


def test_weights_are_torchs_own_memory() -> None:
    problem = problem_of(load_workload("line"), 10, CPU, torch.float32)
    updates = Numpy().prepare(problem, 1)
    weight = updates.parameters()["0.weight"]
    before = weight.clone()
    updates(torch.ones(1, 10, 1), torch.ones(1, 10, 1))
    assert not torch.equal(weight, before)


@pytest.mark.parametrize(
    ("model", "loss", "told"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), nn.MSELoss(), "layer 1, GELU(approximate='none')"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten()), nn.MSELoss(), "layer 1, Flatten"),
        (nn.Sequential(nn.Linear(2, 2)), nn.L1Loss(), "the loss L1Loss()"),
        (nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(reduction="sum"), "the loss MSELoss()"),
    ],
    ids=["GELU", "Flatten", "L1", "sum"],
)
def test_what_it_has_no_rule_for_is_said_in_one_line(model: nn.Module, loss: nn.Module, told: str) -> None:
    reason = Numpy().unsupported(Problem(model, loss, 0.1, 4), case())
    assert reason is not None
    assert told in reason
    assert "\n" not in reason


def test_other_devices_and_precisions_are_said_in_one_line() -> None:
    problem = problem_of(load_workload("line"), 10, torch.device("meta"), torch.float32)
    assert Numpy().unsupported(problem, case()) == "numpy computes on the CPU only: --device cpu"
    problem = problem_of(load_workload("line"), 10, CPU, torch.float32)
    assert Numpy().unsupported(problem, case("tf32")) == "numpy trains in float32 and float64, not in tf32"


def test_a_worker_gives_numpys_blas_as_many_threads_as_the_case_has() -> None:
    # BLAS starts its threads when it is loaded, one for each core: the kernel knows how many there are.
    program = """
import os, types
from harness.measuring.worker import Worker
Worker(types.SimpleNamespace(threads=1, case=types.SimpleNamespace(dtype="float32")), None)._import()
import numpy
print(len(os.listdir("/proc/self/task")))
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "1\n"
