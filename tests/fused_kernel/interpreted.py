"""What the fused kernel computes, by Triton's interpreter on the CPU; test_fused_kernel.py runs this file.

The interpreter is chosen when triton is imported, so these tests need a process of their own with TRITON_INTERPRET=1.
"""

import os

import pytest
import torch
from torch import nn

from harness.plan.case import Case
from harness.training import trial as trials
from harness.training.contract import Problem
from harness.training.engines import fused_triton
from harness.training.gate import TimedBlock, check_block, check_updates, copied
from harness.training.loading import load_workload

assert os.environ.get("TRITON_INTERPRET") == "1", "run tests/fused_kernel/test_fused_kernel.py instead"

CPU = torch.device("cpu")
CASE = Case("line", "fused", "cuda", "float32", 10)


def prepared(problem):
    engine = fused_triton.FusedTriton()
    assert engine.unsupported(problem, CASE) is None
    return engine.prepare(problem, 20)


def of_workload(name, batch_size, dtype=torch.float32):
    """(problem, trial, updates) of a workload, the weights of seed 3 loaded."""
    workload = load_workload(name)
    problem = trials.problem_of(workload, batch_size, CPU, dtype)
    trial = trials.begin(workload, batch_size, 3, CPU, dtype)
    updates = prepared(problem)
    updates.load(trial.parameters)
    return problem, trial, updates


def of_model(model, batch_size, steps, *, inputs, outputs, dtype=torch.float32):
    """(problem, updates, inputs, targets) of a model on random batches."""
    torch.manual_seed(0)
    problem = Problem(model.to(dtype), nn.MSELoss(), 0.1, batch_size)
    batches = torch.randn(steps, batch_size, inputs, dtype=dtype), torch.randn(steps, batch_size, outputs, dtype=dtype)
    return problem, prepared(problem), *batches


@pytest.mark.parametrize("batch_size", [1, 7, 10, 100])
@pytest.mark.parametrize("workload", ["line", "line_deep"])
def test_it_passes_the_gate_on_both_networks(workload, batch_size):
    problem, trial, updates = of_workload(workload, batch_size)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


def test_it_passes_the_gate_in_float64():
    problem, trial, updates = of_workload("line_deep", 7, torch.float64)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(
            nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 2)
        ),
        nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)),
        nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Tanh()),
        nn.Linear(3, 2),
    ],
    ids=["three hidden layers", "no bias", "no activation", "one layer"],
)
def test_it_passes_the_gate_on_chains_of_all_it_knows(model, dtype):
    problem, updates, inputs, targets = of_model(model, 6, 8, inputs=3, outputs=2, dtype=dtype)
    assert check_updates(problem, updates, inputs, targets) <= 1


@pytest.mark.parametrize("size", [1e-4, 0.1, 0.6, 0.65, 3.0, 50.0])
def test_its_tanh_is_right_wherever_it_is_computed_another_way(size):
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Tanh())
    nn.init.constant_(model[0].weight, size)
    problem, updates, _, targets = of_model(model, 4, 2, inputs=1, outputs=2, dtype=torch.float64)
    inputs = torch.tensor([[-1.0], [-0.99], [0.98], [1.0]], dtype=torch.float64).expand(2, 4, 1)
    assert check_updates(problem, updates, inputs, targets) <= 1


@pytest.mark.parametrize("batch_size", [17, 37])
def test_a_batch_of_several_blocks_passes_the_gate(batch_size, monkeypatch):
    monkeypatch.setattr(fused_triton, "_largest_block", lambda _: 16)
    problem, trial, updates = of_workload("line_deep", batch_size)
    assert check_updates(problem, updates, *trial.batches(10)) <= 1


def test_a_layer_without_bias_gets_none_in_the_course_of_a_call():
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    problem, updates, inputs, targets = of_model(model, 6, 8, inputs=3, outputs=2)
    losses, after = updates(inputs, targets), copied(updates.parameters())
    start = {name: value.detach() for name, value in problem.template.named_parameters()}
    check_block(problem, updates, inputs, targets, TimedBlock(start, losses, after))


@pytest.mark.parametrize("batch_size", [10, 100])
def test_many_updates_at_once_are_those_made_one_by_one(batch_size):
    """Real batches of 10, one expanded over all steps of 100."""
    problem, trial, updates = of_workload("line", batch_size)
    inputs, targets = trial.batches(25)
    assert (inputs.stride(0) == 0) == (batch_size == 100)
    losses = updates(inputs, targets).clone()
    after = copied(updates.parameters())
    updates.load(trial.parameters)
    singly = torch.cat([updates(inputs[step : step + 1], targets[step : step + 1]) for step in range(25)])
    assert torch.equal(losses, singly)
    assert all(torch.equal(after[name], value) for name, value in updates.parameters().items())
    check_block(problem, updates, inputs, targets, TimedBlock(trial.parameters, losses, after))


def test_a_call_of_more_updates_than_a_launch_may_make_goes_on_where_the_last_ended(monkeypatch):
    _, trial, updates = of_workload("line", 10)
    inputs, targets = trial.batches(20)
    losses, after = updates(inputs, targets).clone(), copied(updates.parameters())
    launches = []
    monkeypatch.setattr(fused_triton, "STEPS_PER_LAUNCH", 8)
    launch = updates.launch
    monkeypatch.setattr(updates, "launch", lambda *batches: (launches.append(len(batches[2])), launch(*batches)))
    updates.load(trial.parameters)
    assert torch.equal(updates(inputs, targets), losses)
    assert all(torch.equal(after[name], value) for name, value in updates.parameters().items())
    assert launches == [8, 8, 4]


def test_no_updates_change_nothing():
    _, trial, updates = of_workload("line", 10)
    inputs, targets = trial.batches(1)
    assert updates(inputs[:0], targets[:0]).shape == (0,)
    assert all(torch.equal(trial.parameters[name], value) for name, value in updates.parameters().items())


def test_numbers_that_are_none_reach_the_loss():
    _, trial, updates = of_workload("line", 7)
    updates.load({**trial.parameters, "0.weight": torch.full((10, 1), torch.nan)})
    assert updates(*trial.batches(2)).isnan().all()


def test_batches_that_do_not_lie_side_by_side_are_copied():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    problem, updates, inputs, targets = of_model(model, 6, 3, inputs=3, outputs=2)
    turned = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned[0].is_contiguous()
    assert check_updates(problem, updates, turned, targets) <= 1


@pytest.mark.parametrize("wrong", [torch.zeros(2, 11, 1), torch.zeros(2, 10, 2), torch.zeros(2, 10, 1).double()])
def test_batches_that_the_kernel_was_not_compiled_for_are_refused(wrong):
    _, trial, updates = of_workload("line", 10)
    with pytest.raises(ValueError, match="compiled for batches of"):
        updates(wrong, trial.batches(2)[1])
