import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.training.contract import Problem
from harness.training.loading import load_workload
from harness.training.reference import expected_update, float64_model, reference_step, unbounded
from harness.training.tolerances import units
from harness.training.trial import begin, problem_of

CPU = torch.device("cpu")


def small(layer: nn.Module | None = None, loss: nn.Module | None = None) -> Problem:
    model = nn.Sequential(nn.Linear(3, 4), layer or nn.ReLU(), nn.Linear(4, 3))
    return Problem(model, loss or nn.MSELoss(), 0.1, 8)


def test_the_reference_is_one_step_of_torchs_own_sgd_in_float64() -> None:
    problem = small(nn.Tanh())
    inputs, targets = torch.randn(8, 3), torch.randn(8, 3)
    weights = dict(problem.template.named_parameters())
    loss, new = reference_step(float64_model(problem), problem, weights, inputs, targets)

    model = copy.deepcopy(problem.template).double()
    theirs = problem.loss(model(inputs.double()), targets.double())
    theirs.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert loss.item() == theirs.item()
    for name, wanted in model.named_parameters():
        torch.testing.assert_close(new[name], wanted.detach(), rtol=0, atol=1e-16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU()])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()])
def test_honest_autograd_stays_within_the_bound(dtype: torch.dtype, layer: nn.Module, loss: nn.Module) -> None:
    torch.manual_seed(0)
    problem = small(layer, loss)
    problem.template.to(dtype)
    model, own = float64_model(problem), problem.model()
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    for _ in range(100):
        inputs, targets = torch.randn(8, 3, dtype=dtype), torch.randn(8, 3, dtype=dtype)
        if isinstance(loss, nn.CrossEntropyLoss):
            targets = targets.argmax(1)
        expected = expected_update(model, problem, dict(own.named_parameters()), inputs, targets)
        optimizer.zero_grad()
        value = loss(own(inputs), targets)
        value.backward()
        optimizer.step()
        assert abs(value.item() - expected.loss.item()) <= expected.loss_limit.item()
        for name, parameter in own.named_parameters():
            assert ((parameter.double() - expected.parameters[name]).abs() <= expected.limits[name]).all()


def test_the_bound_is_narrow() -> None:
    """At batch 100 it is a few hundred roundings of the weight itself, not a share of the gradient."""
    problem = problem_of(load_workload("line"), 100, CPU, torch.float32)
    trial = begin(load_workload("line"), 100, 0, CPU, torch.float32)
    expected = expected_update(float64_model(problem), problem, trial.parameters, trial.inputs, trial.targets)
    for name, limit in expected.limits.items():
        weight = trial.parameters[name].abs().double()
        assert (limit <= 1e-4 * weight + 1e-5).all()


def test_a_point_at_a_kink_may_take_either_side() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-0.5)
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(0.0)
    problem = Problem(model, nn.MSELoss(), 0.1, 1)
    targets = torch.tensor([[1.0]])

    def limit(x: float) -> float:
        expected = expected_update(
            float64_model(problem), problem, dict(model.named_parameters()), torch.tensor([[x]]), targets
        )
        return expected.limits["0.bias"].item()

    whole = 0.1 * 2 * 1.0  # learning rate × |2 (y - t)| × weight
    assert limit(0.5 + 1e-7) > 0.99 * whole
    assert limit(0.6) < 1e-4 * whole


def test_the_constant_grows_with_the_root_of_long_sums() -> None:
    def constant(batch_size: int) -> float:
        return units(replace(small(), batch_size=batch_size)).sums / torch.finfo(torch.float32).eps

    assert constant(10) == constant(1000) == 16
    assert constant(100_000) == pytest.approx(160)


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        (Problem(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), nn.MSELoss(), 0.1, 4), "1, LayerNorm"),
        (Problem(nn.Sequential(nn.Linear(2, 2)), nn.L1Loss(), 0.1, 4), "L1Loss"),
        (Problem(nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(reduction="sum"), 0.1, 4), "MSELoss"),
        (Problem(nn.Sequential(nn.Linear(2, 2).requires_grad_(False)), nn.MSELoss(), 0.1, 4), "frozen"),
        (Problem(nn.Sequential(*[nn.Linear(2, 2)] * 2), nn.MSELoss(), 0.1, 4), "used twice"),
    ],
)
def test_a_layer_without_a_bound_is_named(problem: Problem, named: str) -> None:
    reason = unbounded(problem)
    assert reason is not None
    assert named in reason
