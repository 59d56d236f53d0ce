"""Many updates in one compiled graph: what Python and the compiler's guards cost is paid once for all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.training.contract import Problem, Updates
from harness.training.engines.compile_step import CompileStep
from harness.training.module_updates import ModuleUpdates, restored
from harness.training.steps import Step, autograd_step, whole_graph
from harness.training.trial import chunks, each


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

        # Batches come as tensors of their own, not as one [steps, batch, …]: a graph is compiled for its inputs'
        # strides, and one batch that is expanded over steps has others than many batches.
        def unrolled(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
            return torch.stack([update(batch, target) for batch, target in zip(inputs, targets, strict=True)])

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
        with restored(self):
            batches, wanted = (values.expand(self._steps, *values.shape[1:]).unbind() for values in (inputs, targets))
            self._many(batches, wanted)
            self._one(batches[0], wanted[0])
        self._compiled = True
