"""Many seeds at once: `torch.func.vmap` over a stack of models, so that they share the price of every operation."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.trial import each


class Ensemble:
    """One forward, backward and update for all members; each is trained as if it were alone."""

    members = 64

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Every model and loss is supported that vmap is: all that the gate knows."""
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Allocate the stacks of weights."""
        return EnsembleUpdates(problem, self.members)


class _Loss(nn.Module):
    """Forward and loss of a problem as a module, so that `functional_call` puts other weights into its model."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.model = problem.model()
        self._forward_loss = problem.forward_loss(self.model)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._forward_loss(inputs, targets)


class EnsembleUpdates:
    """SGD updates of all members, in place on stacks [members, …] of their weights."""

    def __init__(self, problem: Problem, members: int) -> None:
        self._stacks = {
            name: value.detach().repeat(members, *(1 for _ in value.shape))
            for name, value in problem.template.named_parameters()
        }
        module = _Loss(problem)

        def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            of_model = {f"model.{name}": value for name, value in parameters.items()}
            found: Tensor = functional_call(module, of_model, (inputs, targets))
            return found

        self._gradients = vmap(grad_and_value(loss), in_dims=(0, None, None))
        self._learning_rate = problem.learning_rate

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the weights [members, …] into the stacks."""
        for name, stack in self._stacks.items():
            stack.copy_(parameters[name])

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch and member; inputs [steps, batch, features], returns losses [steps, members]."""
        return torch.stack(
            [self._update(batch, target) for batch, target in zip(each(inputs), each(targets), strict=True)]
        )

    def parameters(self) -> dict[str, Tensor]:
        """Return the stacks by name."""
        return dict(self._stacks)

    def _update(self, inputs: Tensor, targets: Tensor) -> Tensor:
        gradients, losses = self._gradients(self._stacks, inputs, targets)
        for name, stack in self._stacks.items():
            stack.sub_(gradients[name], alpha=self._learning_rate)
        return losses
