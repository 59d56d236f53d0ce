import importlib.util

import pytest
import torch
from torch import nn

from harness.plan.case import Case
from harness.training.contract import Problem
from harness.training.engines.fused_triton import FusedTriton
from harness.training.gate import TimedBlock, check_block, check_updates, copied
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

CASE = Case("line", "fused", "cuda", "float32", 100)


def line(*layers, loss=None, batch_size=100, dtype=torch.float32):
    model = nn.Sequential(*(layers or (nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1)))).to(dtype)
    return Problem(model, loss or nn.MSELoss(), 0.1, batch_size)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (line(nn.Linear(1, 4), nn.GELU(), nn.Linear(4, 1)), "not 1, GELU"),
        (line(nn.ReLU(), nn.Linear(4, 1)), "not 0, ReLU"),
        (line(nn.Linear(1, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 1)), "not 2, Tanh"),
        (line(nn.Linear(1, 33), nn.ReLU(), nn.Linear(33, 1)), "at most 32 units in its registers, not of 33"),
        (line(*[nn.Linear(1, 1)] * 5), "1 to 4 linear layers, not 5"),
        (line(nn.Identity()), "1 to 4 linear layers, not 0"),
        (line(loss=nn.MSELoss(reduction="sum")), "the mean MSELoss"),
        (line(loss=nn.CrossEntropyLoss()), "not CrossEntropyLoss"),
        (line(batch_size=16_385), "at most 16,384 points, not 16,385"),
        (line(dtype=torch.bfloat16), "float32 and float64, not torch.bfloat16"),
    ],
)
def test_it_says_in_one_line_what_it_was_not_written_for(problem, told):
    reason = FusedTriton().unsupported(problem, CASE)
    assert reason is not None
    assert told in reason
    assert "\n" not in reason


def test_without_triton_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    reason = FusedTriton().unsupported(line(), CASE)
    assert reason is not None
    assert "pip install triton" in reason


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000, 10_000])
@pytest.mark.parametrize("name", ["line", "line_deep"])
def test_on_a_gpu_it_passes_the_gate_and_calls_of_many_are_calls_of_one(name, batch_size, dtype):
    device, workload = torch.device("cuda"), load_workload(name)
    problem, trial = problem_of(workload, batch_size, device, dtype), begin(workload, batch_size, 3, device, dtype)
    engine = FusedTriton()
    assert engine.unsupported(problem, CASE) is None
    updates = engine.prepare(problem, 20)
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1

    inputs, targets = trial.batches(300)
    updates.load(trial.parameters)
    losses, after = updates(inputs, targets).clone(), copied(updates.parameters())
    check_block(problem, updates, inputs, targets, TimedBlock(trial.parameters, losses, after))
    updates.load(trial.parameters)
    singly = torch.cat([updates(inputs[step : step + 1], targets[step : step + 1]) for step in range(300)])
    assert torch.equal(losses, singly)
    assert all(torch.equal(after[name], value) for name, value in updates.parameters().items())
