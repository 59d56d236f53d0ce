"""The training loop that everybody writes: a module, `loss.backward()`, `torch.optim.SGD`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.module_updates import ModuleUpdates
from harness.training.trial import each


class Autograd:
    """Eager autograd, the yardstick that every ratio is taken against."""

    dtypes = DTYPES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Every model and loss is supported."""
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Make the optimiser."""
        model = problem.model()
        return LoopUpdates(model, problem.forward_loss(model), problem.learning_rate)


class LoopUpdates(ModuleUpdates):
    """The ordinary loop around a given forward-and-loss function; fused: as torch's optimiser has it."""

    def __init__(
        self,
        model: nn.Module,
        forward_loss: Callable[[Tensor, Tensor], Tensor],
        learning_rate: float,
        *,
        fused: bool | None = None,
    ) -> None:
        super().__init__(model)
        self._forward_loss = forward_loss
        self._optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, fused=fused)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        forward_loss, optimizer = self._forward_loss, self._optimizer
        losses = []
        for batch, target in zip(each(inputs), each(targets), strict=True):
            optimizer.zero_grad()
            loss = forward_loss(batch, target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)
