"""Gradients by `torch.func`, functional as in JAX; the whole update in one compiled graph."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.steps import Step, StepUpdates
from harness.training.toolchain import missing_toolchain


class FuncGradCompile:
    """`torch.func.grad_and_value` of `functional_call`, the SGD update written out; needs no setting of torch's."""

    dtypes = DTYPES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say which part of the compiler's toolchain is missing."""
        return missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap the update; torch compiles it at the first call."""
        model = problem.model().requires_grad_(requires_grad=False)
        return StepUpdates(model, torch.compile(func_grad_step(problem, model), fullgraph=True, dynamic=False))


class _Loss(nn.Module):
    """The loss of a batch as a module, so that `functional_call` puts other weights into the model."""

    def __init__(self, model: nn.Module, forward_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._forward_loss = forward_loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._forward_loss(inputs, targets)


def func_grad_step(problem: Problem, model: nn.Module) -> Step:
    """Return one SGD update of a model whose parameters ask for no gradient."""
    module = _Loss(model, problem.forward_loss(model))
    weights: dict[str, Tensor] = dict(module.named_parameters())
    learning_rate = problem.learning_rate

    def loss_of(values: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = functional_call(module, values, (inputs, targets))
        return loss

    gradients_and_loss = grad_and_value(loss_of)

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        gradients: dict[str, Tensor]
        loss: Tensor
        gradients, loss = gradients_and_loss(weights, inputs, targets)
        for name, weight in weights.items():
            weight.sub_(gradients[name], alpha=learning_rate)
        return loss

    return update
