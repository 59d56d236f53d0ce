"""Gradients by finite differences, the oldest way: nothing is derived, and every weight costs two forward passes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.module_updates import ModuleUpdates
from harness.training.trial import each


class FiniteDifferences:
    """∂L/∂w = (L(w + h) - L(w - h)) / 2h, weight by weight, with h the cube root of the dtype's eps.

    That h balances what the third derivative adds, h², against what rounding the losses does, eps / h.
    """

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Every model and loss is supported."""
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Take a copy of the model."""
        model = problem.model().requires_grad_(requires_grad=False)
        return DifferenceUpdates(model, problem.forward_loss(model), problem.learning_rate)


class DifferenceUpdates(ModuleUpdates):
    """SGD updates by central differences.

    forward_passes: of one update: one for the loss, two for each weight.
    """

    def __init__(
        self, model: nn.Module, forward_loss: Callable[[Tensor, Tensor], Tensor], learning_rate: float
    ) -> None:
        super().__init__(model)
        self._forward_loss = forward_loss
        self._learning_rate = learning_rate
        self._weights = tuple(model.parameters())
        self._step = float(torch.finfo(self._weights[0].dtype).eps ** (1 / 3))
        self.forward_passes = 1 + 2 * sum(weight.numel() for weight in self._weights)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        losses = inputs.new_empty(len(inputs))
        for batch, target, loss in zip(each(inputs), each(targets), losses, strict=True):
            loss.copy_(self._forward_loss(batch, target))
            gradients = [self._gradient(weight, batch, target) for weight in self._weights]
            for weight, gradient in zip(self._weights, gradients, strict=True):
                weight.sub_(gradient, alpha=self._learning_rate)
        return losses

    def _gradient(self, weight: Tensor, batch: Tensor, target: Tensor) -> Tensor:
        gradient = torch.empty_like(weight)
        numbers, slopes = weight.view(-1), gradient.view(-1)
        for index, before in enumerate(numbers.tolist()):
            numbers[index] = before + self._step
            above = self._forward_loss(batch, target)
            numbers[index] = before - self._step
            below = self._forward_loss(batch, target)
            numbers[index] = before
            slopes[index] = (above - below) / (2 * self._step)
        return gradient
