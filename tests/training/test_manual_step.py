import pytest
import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.manual_step import LAYERS, LOSSES, manual_step
from harness.training.reference import float64_model, reference_step
from harness.training.rules import LAYER_RULES, LOSS_RULES

BATCH, FEATURES, OUTPUTS = 7, 4, 3

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU]


def problem_with(activation: type[nn.Module], loss: nn.Module, *, bias: bool = True) -> Problem:
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, 5, bias=bias), activation(), nn.Linear(5, OUTPUTS, bias=bias)]
    return Problem(nn.Sequential(*layers).double(), loss, 0.5, BATCH)


def batch_for(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCH, FEATURES, generator=generator, dtype=torch.float64)
    if isinstance(problem.loss, nn.CrossEntropyLoss):
        return inputs, torch.randint(OUTPUTS, (BATCH,), generator=generator)
    return inputs, torch.randn(BATCH, OUTPUTS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss()], ids=["mse", "cross entropy"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_update_is_that_of_autograd(activation: type[nn.Module], loss: nn.Module, bias: bool) -> None:
    """Several in a row: what one keeps of its own must not reach the next."""
    problem = problem_with(activation, loss, bias=bias)
    model, reference = problem.model(), float64_model(problem)
    update = manual_step(problem, model)
    parameters = dict(problem.model().named_parameters())
    for seed in range(5):
        inputs, targets = batch_for(problem, seed)
        wanted, parameters = reference_step(reference, problem, parameters, inputs, targets)
        torch.testing.assert_close(update(inputs, targets), wanted)
        torch.testing.assert_close(dict(model.named_parameters()), parameters)


def test_it_knows_what_the_rules_in_place_know() -> None:
    """`missing_rule` speaks for both."""
    assert (set(LAYERS), set(LOSSES)) == (set(LAYER_RULES), set(LOSS_RULES))


def test_weights_change_where_they_are_and_the_data_does_not() -> None:
    problem = problem_with(nn.ReLU, nn.MSELoss())
    model = problem.model()
    update = manual_step(problem, model)
    addresses = [value.data_ptr() for value in model.parameters()]
    inputs, targets = batch_for(problem, 0)
    before = inputs.clone(), targets.clone()
    update(inputs, targets)
    assert [value.data_ptr() for value in model.parameters()] == addresses
    assert torch.equal(inputs, before[0])
    assert torch.equal(targets, before[1])
