"""One update of each engine, in this process: a loop of half a minute for whoever edits an engine.

    nox -s microbench -- --benchmark-autosave
    nox -s microbench -- --benchmark-compare

For a number to decide by, use `harness run`: fresh processes, gated, in rounds.
"""

from typing import Any

import pytest
import torch

from harness.measuring.device import device_of
from harness.plan.case import Case
from harness.plan.catalogue import ENGINES
from harness.training.loading import load_engine, load_workload
from harness.training.trial import begin, problem_of

STEPS = 20
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [100, 10_000])
@pytest.mark.parametrize("name", ENGINES)
def test_twenty_updates(benchmark: Any, name: str, batch_size: int, device: str) -> None:
    torch.compiler.reset()
    workload = load_workload("line")
    problem = problem_of(workload, batch_size, torch.device(device), torch.float32)
    engine = load_engine(name)
    reason = engine.unsupported(problem, Case("line", name, device, "float32", batch_size))
    if reason is not None:
        pytest.skip(reason)
    updates = engine.prepare(problem, STEPS)
    trial = begin(workload, batch_size, 0, torch.device(device), torch.float32)
    updates.load(trial.parameters)
    inputs, targets = trial.batches(STEPS)
    synchronize = device_of(torch.device(device)).synchronize

    def twenty() -> None:
        updates(inputs, targets)
        synchronize()

    benchmark.pedantic(twenty, rounds=100, warmup_rounds=20)
