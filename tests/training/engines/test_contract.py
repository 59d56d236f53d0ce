"""What every engine of the catalogue promises, on the one contract that they share."""

from typing import Any

import pytest
import torch
from torch import nn

from harness.measuring.probes import compilation
from harness.plan.case import Case
from harness.plan.catalogue import ENGINES
from harness.training.contract import Problem
from harness.training.gate import check_updates
from harness.training.loading import load_engine, load_workload
from harness.training.members import prepared
from harness.training.trial import Trial, begin, problem_of

DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=pytest.mark.cuda)]


@pytest.fixture(scope="module", params=ENGINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=DEVICES, ids=str)
def ready(request: pytest.FixtureRequest, name: str) -> Any:
    """(problem, trial, updates) of one engine; compiled once."""
    torch.compiler.reset()
    workload = load_workload("line")
    problem = problem_of(workload, 10, request.param, torch.float32)
    engine = load_engine(name)
    reason = engine.unsupported(problem, Case("line", name, request.param.type, "float32", 10))
    if reason is not None:
        pytest.skip(reason)
    return problem, begin(workload, 10, 0, request.param, torch.float32), prepared(engine, problem, 20)


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


def test_whatever_is_compiled_is_one_graph(ready: Ready, name: str) -> None:
    torch._dynamo.utils.counters.clear()
    torch.compiler.reset()
    problem, trial, _ = ready
    updates = prepared(load_engine(name), problem, 20)
    updates.load(trial.parameters)
    updates(*trial.batches(3))
    updates.load(trial.parameters)
    updates(*trial.batches(3))
    state = compilation()
    assert (state.graphs, state.breaks) == (1 if name.startswith("compile") or name == "ensemble" else 0, 0)


def test_the_manual_engine_names_the_layer_it_has_no_rule_for() -> None:
    problem = Problem(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.MSELoss(), 0.1, 4)
    reason = load_engine("manual").unsupported(problem, Case("w", "manual", "cpu", "float32", 4))
    assert reason is not None
    assert "1, LayerNorm" in reason
