"""The two contracts of the program: a workload says what is trained, an engine says how.

Both are plain classes without a base; these protocols only write down what is expected of them.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.targets import ConvergenceTargets

# The hint that engines which unroll are given, and what the length of a timed block is a multiple of.
UNROLLED = 20


class Workload(Protocol):
    """What is trained. Add one with a file like `training/workloads/line.py`, or your own `path/to/file.py:Name`.

    One that keeps points that no update sees has `held_out(batch_size, seed)`, which returns them as `data` does and
    may draw from the generator as well, after everything else: accuracy is of these then, the loss of those trained on.

    loss: a torch loss module with mean reduction, called as `loss(outputs, targets)`.
    learning_rate: of plain SGD.
    epochs: passes over the data set, each `points // batch_size` updates.
    targets: what convergence is held to.
    """

    loss: nn.Module
    learning_rate: float
    epochs: int
    targets: ConvergenceTargets

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs [points, features] and targets [points, outputs], float32 on CPU, points >= batch_size.

        torch's default generator has been seeded with `seed` right before: drawing from it is enough.
        """
        ...

    def model(self, seed: int) -> nn.Module:
        """Return a new float32 model on CPU; called after `data`, so that the generator goes on where that ended."""
        ...

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the accuracy of outputs [points, outputs] as a 0-d tensor from 0 to 1."""
        ...


@dataclass(frozen=True)
class Problem:
    """What an engine is given: everything about a case but its data and its starting weights.

    template: the model on the case's device and in its dtype; take a copy with `model()`.
    loss: the loss module.
    learning_rate: of plain SGD.
    batch_size: points per update.
    mixed: `tf32` or `bfloat16` where products are less precise than the parameters; else empty.
    """

    template: nn.Module
    loss: nn.Module
    learning_rate: float
    batch_size: int
    mixed: str = ""

    def model(self) -> nn.Module:
        """Return a copy of the model that the engine may keep and change."""
        return copy.deepcopy(self.template)

    def forward_loss(self, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss of a batch, 0-d, as a function of its inputs and targets [batch, …], in the case's precision.

        Whoever differentiates a module takes this, so that a precision is written down once. `tf32` is no business of
        it: the process has it on or off.
        """
        loss, device = self.loss, self.device.type
        if self.mixed != "bfloat16":
            return lambda inputs, targets: loss(model(inputs), targets)

        def in_bfloat16(inputs: Tensor, targets: Tensor) -> Tensor:
            # Every weight is cast once per update: there is nothing to cache, and graph capture trips over the cache.
            with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
                value: Tensor = loss(model(inputs), targets)
            return value

        return in_bfloat16

    @property
    def precision(self) -> str:
        """The dtype of the case, as the catalogue names it."""
        return self.mixed or str(self.dtype).removeprefix("torch.")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.template.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.template.parameters()).device


class Updates(Protocol):
    """An engine made ready for one problem."""

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Start again from these weights, by copying them: no recompile; not timed."""
        ...

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one SGD update per batch and return the loss of each batch before its update.

        inputs [steps, batch, features] and targets [steps, batch, outputs], any number of steps, on the case's device;
        either may be a view expanded over steps. Returns losses [steps]; they are read before the next call and may
        lie in memory that it uses again. This is what is timed.
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Return the weights after the updates made so far, named as the model's `named_parameters`."""
        ...


class Engine(Protocol):
    """One way to make SGD updates. Add one with a file like `training/engines/autograd.py`, or your own.

    One with `dtypes = DTYPES` takes every dtype of the catalogue, as whoever differentiates `Problem.forward_loss`
    does; without it, it takes PLAIN_DTYPES.

    One with `takes_ranks = True` may be one of several that train together (`training.ranks`): each is given whole
    batches and takes its share, and all end every call with the same losses, of the whole batch, and the same weights.

    One with `members = N` trains N models at once, each from weights of its own and all on the same batches: it loads
    weights [N, …] by name, returns such weights, and losses [steps, N]. Its time is that of one member's update.
    """

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Return why this case cannot be done here, in one line, or None when it can."""
        ...

    def prepare(self, problem: Problem, steps: int) -> Updates:
        """Compile, capture and allocate: never timed as a step.

        `steps` is a hint for engines that unroll: calls are of one update and of many; every number must work. Whatever
        is compiled must be compiled by the gate's calls: graph breaks, recompiles and new graphs while timed end the
        case as `rejected`.
        """
        ...
