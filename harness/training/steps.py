"""One whole update as a function, for engines that compile, unroll or capture it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.module_updates import ModuleUpdates
from harness.training.trial import each

# inputs [batch, …], targets [batch, …] → the loss (0-d) before the update; the weights are changed in place.
Step = Callable[[Tensor, Tensor], Tensor]


def autograd_step(problem: Problem, model: nn.Module) -> Step:
    """Return forward, loss, `torch.autograd.grad` and the SGD update of a model, in one function."""
    forward_loss, learning_rate = problem.forward_loss(model), problem.learning_rate
    weights = tuple(model.parameters())

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = forward_loss(inputs, targets)
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=learning_rate)
        return loss.detach()

    return update


def whole_graph(update: Callable[..., Tensor], mode: str | None = None) -> Callable[..., Tensor]:
    """Wrap an update for torch to compile into one graph at its first call, `torch.autograd.grad` included.

    mode: of `torch.compile`. `engines.compile_step.CompileStep` says where this cannot be done.
    """
    # Off by default up to torch 2.14; without it `torch.autograd.grad` is a graph break.
    torch._dynamo.config.trace_autograd_ops = True
    # One shape per process, so a recompile would be a mistake: see `measuring.probes.assert_compiled_once`.
    return torch.compile(update, fullgraph=True, dynamic=False, mode=mode)


class StepUpdates(ModuleUpdates):
    """Calls a step once per batch."""

    def __init__(self, model: nn.Module, update: Step) -> None:
        super().__init__(model)
        self._update = update

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        update = self._update
        return torch.stack([update(batch, target) for batch, target in zip(each(inputs), each(targets), strict=True)])
