"""Many seeds at once: `torch.func.vmap` over a stack of models, the whole update of all in one compiled graph."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.steps import Step, StepUpdates
from harness.training.toolchain import missing_toolchain


class Ensemble:
    """Members share the price of every operation; each is trained as if it were alone.

    Compiled, since in eager mode vmap itself takes most of the time: of `line` at batch 100, a member's update takes an
    eighth of that.
    """

    dtypes = DTYPES

    members = 64

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say which part of the compiler's toolchain is missing."""
        return missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Allocate the stacks and wrap the update; torch compiles it at the first call."""
        model = stacked_model(problem, self.members)
        step = ensemble_step(problem, dict(model.named_parameters()))
        return StepUpdates(model, torch.compile(step, fullgraph=True, dynamic=False))


def stacked_model(problem: Problem, members: int) -> nn.Module:
    """Return a model that holds the weights of all members, [members, …], by their names; it cannot be called."""
    model = problem.model().requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.data = parameter.data.repeat(members, *(1 for _ in parameter.shape))
    return model


def ensemble_step(problem: Problem, stacks: Mapping[str, Tensor]) -> Step:
    """Return forward, loss, backward and SGD of all members, in place on their stacks; it returns losses [members]."""
    module = _Loss(problem)

    def loss(parameters: Mapping[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        of_model = {f"model.{name}": value for name, value in parameters.items()}
        found: Tensor = functional_call(module, of_model, (inputs, targets))
        return found

    of_all = vmap(grad_and_value(loss), in_dims=(0, None, None))

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        gradients: Mapping[str, Tensor]
        losses: Tensor
        gradients, losses = of_all(stacks, inputs, targets)
        for name, stack in stacks.items():
            stack.sub_(gradients[name], alpha=problem.learning_rate)
        return losses

    return update


class _Loss(nn.Module):
    """Forward and loss of a problem as a module, so that `functional_call` puts other weights into its model."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.model = problem.model()
        self._forward_loss = problem.forward_loss(self.model)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._forward_loss(inputs, targets)
