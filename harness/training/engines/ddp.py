"""Data parallelism as everybody writes it: `DistributedDataParallel` around the module, the rest as in `autograd`."""

import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training import ranks
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import LoopUpdates


class Ddp:
    """Each rank takes its share of every batch; gradients are averaged between backward and update.

    With one rank it does the same, with nobody to wait for: the yardstick of its own scaling.
    """

    dtypes = DTYPES
    takes_ranks = True

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Every model and loss is supported, where torch was built with what ranks talk through."""
        return None if dist.is_available() else "this build of torch has no torch.distributed"

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Make replica and optimiser; a process that is no rank becomes the only one."""
        ranks.join_nobody(problem.device)
        return DdpUpdates(problem)


class DdpUpdates(LoopUpdates):
    """The ordinary loop on this rank's share of each batch.

    All shares are equal, so the mean of their losses and gradients is that of the whole batch.
    """

    def __init__(self, problem: Problem) -> None:
        model = problem.model()
        self._replica = DistributedDataParallel(model)
        super().__init__(model, problem.forward_loss(self._replica), problem.learning_rate)
        self._ranks = ranks.count()
        size = problem.batch_size // self._ranks
        self._share = slice(ranks.own() * size, (ranks.own() + 1) * size)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch of all ranks; inputs [steps, batch, features], returns losses [steps] of all."""
        losses = super().__call__(inputs[:, self._share], targets[:, self._share])
        # Once per call, as a program does that logs now and then: nothing in training waits for a loss.
        dist.all_reduce(losses)
        return losses / self._ranks
