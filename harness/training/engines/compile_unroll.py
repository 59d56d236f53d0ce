"""Many updates in one compiled graph: what Python and the compiler's guards cost is paid once for all of them."""

import torch
from torch import Tensor, nn

from harness.training.contract import Problem, Updates
from harness.training.engines.compile_step import CompileStep
from harness.training.module_updates import ModuleUpdates, restored
from harness.training.steps import Step, autograd_step, whole_graph
from harness.training.trial import chunks, each, steps_at_once


class CompileUnroll(CompileStep):
    """The update of `compile_step`, `steps` times in one graph; the rest of a call goes through a graph of one."""

    def prepare(self, problem: Problem, steps: int) -> Updates:
        """Wrap both graphs; torch compiles them at the first call."""
        model = problem.model()
        return UnrolledUpdates(model, autograd_step(problem, model), steps)


class UnrolledUpdates(ModuleUpdates):
    """Whole chunks of `steps` batches through one graph, what is left over through the other."""

    def __init__(self, model: nn.Module, update: Step, steps: int) -> None:
        super().__init__(model)
        self._steps = steps

        def unrolled(inputs: Tensor, targets: Tensor) -> Tensor:
            return torch.stack([update(batch, target) for batch, target in zip(inputs, targets, strict=True)])

        # Of one tensor [steps, batch, …] each: of `steps` tensors, guards and views took 15 % of an update of `line`.
        self._many, self._one = whole_graph(unrolled), whole_graph(update)
        self._compiled = False

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps]."""
        if not self._compiled:
            self._compile(inputs[:1], targets[:1])
        steps = self._steps
        pairs = zip(chunks(inputs, steps), chunks(targets, steps), strict=True)
        losses = [self._many(batches, wanted) for batches, wanted in pairs]
        left = len(inputs) - len(inputs) % steps
        if left < len(inputs):
            rest = zip(each(inputs[left:]), each(targets[left:]), strict=True)
            losses.append(torch.stack([self._one(batch, target) for batch, target in rest]))
        return torch.cat(losses)

    def _compile(self, inputs: Tensor, targets: Tensor) -> None:
        """Compile both graphs on the first batch [1, batch, …]; the weights are left as they were.

        At the first call, whatever its length: it is what the compile is timed by, and none may come later.
        """
        self._steps = steps_at_once(self._steps, inputs, targets)
        batches, wanted = (values.expand(self._steps, *values.shape[1:]) for values in (inputs, targets))
        with restored(self):
            self._many(batches.contiguous(), wanted.contiguous())
            self._one(batches[0], wanted[0])
        self._compiled = True
