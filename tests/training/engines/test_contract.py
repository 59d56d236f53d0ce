"""What every engine of the catalogue promises, on the one contract that they share."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.measuring.probes import Compilation, compilation
from harness.plan.case import Case
from harness.plan.catalogue import ENGINES
from harness.training.contract import Problem
from harness.training.gate import check_updates, copied
from harness.training.loading import load_engine, load_workload
from harness.training.members import prepared
from harness.training.trial import Trial, begin, problem_of

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.cuda)]

# The hint for engines that unroll: few, as a long graph takes long to compile, and most calls below are no multiple.
UNROLLED = 3

# Graphs that torch.compile makes for an engine; for those that are not here, none.
GRAPHS = {
    "manual_compile": 1,
    "compile": 1,
    "compile_step": 1,
    "func_grad_compile": 1,
    "compile_unroll": 2,
    "compile_reduce_overhead": 1,
    "compile_max_autotune": 1,
    "cuda_graph_compile": 1,
    "ensemble": 1,
}

CAPTURED = (
    *("compile_reduce_overhead", "compile_max_autotune"),
    *("cuda_graph_manual", "cuda_graph_autograd", "cuda_graph_compile"),
)


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class FirstCall:
    """An engine after its first call, which made one update; what that compiled is all that is ever compiled."""

    problem: Problem
    trial: Trial
    updates: Any
    weights: dict[str, Tensor]
    compiled: Compilation


@pytest.fixture(scope="module", params=DEVICES, ids=str)
def first_call(request: pytest.FixtureRequest, name: str) -> FirstCall:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    workload = load_workload("line")
    problem = problem_of(workload, 10, request.param, torch.float32)
    engine = load_engine(name)
    reason = engine.unsupported(problem, Case("line", name, request.param.type, "float32", 10))
    if reason is not None:
        pytest.skip(reason)
    trial, updates = begin(workload, 10, 0, request.param, torch.float32), prepared(engine, problem, UNROLLED)
    updates.load(trial.parameters)
    updates(*trial.batches(1))
    return FirstCall(problem, trial, updates, copied(updates.parameters()), compilation())


@pytest.fixture(scope="module")
def ready(first_call: FirstCall) -> Any:
    """(problem, trial, updates) of one engine; compiled once."""
    return first_call.problem, first_call.trial, first_call.updates


Ready = tuple[Problem, Trial, Any]


def test_it_passes_the_gate(ready: Ready) -> None:
    problem, trial, updates = ready
    updates.load(trial.parameters)
    assert check_updates(problem, updates, *trial.batches(20)) <= 1


@pytest.mark.parametrize("steps", [1, 7, 20, 21])
def test_any_number_of_steps_gives_one_loss_each(ready: Ready, steps: int) -> None:
    _, trial, updates = ready
    updates.load(trial.parameters)
    losses = updates(*trial.batches(steps))
    assert losses.shape == (steps,)
    assert losses.isfinite().all()
    assert not losses.requires_grad


def test_steps_at_once_are_steps_one_by_one(ready: Ready) -> None:
    _, trial, updates = ready
    inputs, targets = trial.batches(12)
    updates.load(trial.parameters)
    at_once = updates(inputs, targets)
    after = {key: value.clone() for key, value in updates.parameters().items()}
    updates.load(trial.parameters)
    one_by_one = torch.cat([updates(inputs[step : step + 1], targets[step : step + 1]) for step in range(12)])
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-6, atol=0)
    torch.testing.assert_close(after, updates.parameters(), rtol=1e-5, atol=1e-7)


def test_load_copies_and_starts_again(ready: Ready) -> None:
    _, trial, updates = ready
    before = {key: value.clone() for key, value in trial.parameters.items()}
    updates.load(trial.parameters)
    first = updates(*trial.batches(5))
    updates.load(trial.parameters)
    assert torch.equal(first, updates(*trial.batches(5)))
    assert all(torch.equal(before[key], trial.parameters[key]) for key in before)


def test_a_batch_expanded_over_steps_is_taken(ready: Ready) -> None:
    _, trial, updates = ready
    inputs, targets = trial.batches(1)
    updates.load(trial.parameters)
    assert updates(inputs.expand(4, 10, 1), targets.expand(4, 10, 1)).shape == (4,)


def test_the_first_call_compiles_all_that_is_compiled(first_call: FirstCall, name: str) -> None:
    """Calls of one update and of many follow, of real batches and of one expanded: no recompile, no new graph."""
    for steps in (1, UNROLLED - 1, 2 * UNROLLED + 1):
        inputs, targets = first_call.trial.batches(steps)
        first_call.updates(inputs, targets)
        first_call.updates(inputs[:1].expand(inputs.shape), targets[:1].expand(targets.shape))
    assert (first_call.compiled.graphs, first_call.compiled.breaks) == (GRAPHS.get(name, 0), 0)
    assert compilation() == first_call.compiled


def test_the_first_call_makes_no_more_updates_than_it_is_given(first_call: FirstCall) -> None:
    """What it compiles, warms up and captures by is undone."""
    updates = load_engine("autograd").prepare(first_call.problem, UNROLLED)
    updates.load(first_call.trial.parameters)
    updates(*first_call.trial.batches(1))
    torch.testing.assert_close(first_call.weights, updates.parameters(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["manual", "manual_naive", "manual_compile"])
def test_an_engine_by_hand_names_the_layer_it_has_no_rule_for(name: str) -> None:
    problem = Problem(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.MSELoss(), 0.1, 4)
    reason = load_engine(name).unsupported(problem, Case("w", name, "cpu", "float32", 4))
    assert reason is not None
    assert "1, LayerNorm" in reason


@pytest.mark.parametrize("name", CAPTURED)
def test_what_captures_cuda_graphs_says_that_it_needs_a_gpu(name: str) -> None:
    problem = problem_of(load_workload("line"), 10, torch.device("cpu"), torch.float32)
    reason = load_engine(name).unsupported(problem, Case("line", name, "cpu", "float32", 10))
    assert reason == "CUDA graphs are captured on a GPU only: --device cuda"
