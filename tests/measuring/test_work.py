from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.measuring import work
from harness.measuring.work import Work, counted_flops, flops_of_chain, work_of
from harness.plan.catalogue import WORKLOADS
from harness.training.contract import Problem
from harness.training.loading import load_workload
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")


def case_of(name, batch_size, dtype=torch.float32):
    workload = load_workload(name)
    trial = begin(workload, batch_size, 0, CPU, dtype)
    return problem_of(workload, batch_size, CPU, dtype), *(batches[0] for batches in trial.batches(1))


def problem(model):
    return Problem(model, nn.MSELoss(), 0.1, 4)


@pytest.mark.parametrize("modules", [{}, {"torch._dynamo": None}], ids=["by itself", "by torch"])
def test_an_update_of_the_lesson_has_the_work_that_one_counts_by_hand(monkeypatch, modules):
    monkeypatch.setattr(work, "sys", SimpleNamespace(modules=modules))
    # Forward 1 → 10 → 1; the gradients by both weights, and by the hidden layer: 2 · 100 · 10 each. 31 weights.
    hand = Work(flops=5 * 2_000, moved_bytes=100 * 2 * 4 + 2 * 31 * 4, working_set_bytes=100 * 2 * 4 + 31 * 4)
    assert work_of(*case_of("line", 100)) == hand
    twice = replace(hand, moved_bytes=2 * hand.moved_bytes, working_set_bytes=2 * hand.working_set_bytes)
    assert work_of(*case_of("line", 100, torch.float64)) == twice


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_chain_is_counted_as_torch_counts_it(name):
    case = case_of(name, 8)
    assert flops_of_chain(case[0].template, 8) == counted_flops(*case) > 0


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.ReLU(), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)),
        nn.Sequential(nn.Linear(3, 2)),
        nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.GELU()), nn.Linear(4, 2)),
    ],
    ids=["not first", "one layer", "nested"],
)
def test_other_chains_are_too(model):
    assert flops_of_chain(model, 4) == counted_flops(problem(model), torch.ones(4, 3), torch.ones(4, 2)) > 0


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), nn.Bilinear(3, 3, 2), nn.ModuleList([nn.Linear(3, 2)])],
    ids=["another layer with weights", "no chain", "a container"],
)
def test_what_is_no_chain_of_linear_layers_is_left_to_torch(model):
    assert flops_of_chain(model, 4) is None


def test_activations_and_their_functions_are_not_in_it():
    plain, with_tanh = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    batch = torch.ones(4, 3), torch.ones(4, 2)
    assert work_of(problem(plain), *batch) == work_of(problem(with_tanh), *batch)
