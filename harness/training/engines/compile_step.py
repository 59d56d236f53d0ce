"""The whole update – forward, loss, backward and SGD – in one compiled graph."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.module_updates import ModuleUpdates
from harness.training.toolchain import missing_toolchain
from harness.training.trial import each


class CompileStep:
    """`torch.autograd.grad` traced into the graph, the SGD update written out (an optimiser would break the graph)."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say which part of the compiler's toolchain is missing."""
        if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
            return f"torch {torch.__version__} cannot trace autograd into a graph; 2.11 and newer can"
        return missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap the update; torch compiles it at the first call."""
        # Off by default up to torch 2.14; without it `torch.autograd.grad` is a graph break.
        torch._dynamo.config.trace_autograd_ops = True
        model, loss_of, learning_rate = problem.model(), problem.loss, problem.learning_rate
        weights = tuple(model.parameters())

        def update(inputs: Tensor, targets: Tensor) -> Tensor:
            loss: Tensor = loss_of(model(inputs), targets)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.sub_(gradient, alpha=learning_rate)
            return loss.detach()

        return StepUpdates(model, torch.compile(update, fullgraph=True, dynamic=False))


class StepUpdates(ModuleUpdates):
    """Calls a function that makes one whole update, once per batch."""

    def __init__(self, model: nn.Module, update: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(model)
        self._update = update

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        update = self._update
        return torch.stack([update(batch, target) for batch, target in zip(each(inputs), each(targets), strict=True)])
