"""The usual first try: forward and loss under `torch.compile`, the rest as everybody writes it."""

import torch

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import LoopUpdates
from harness.training.toolchain import missing_toolchain


class Compile:
    """Compiled forward and loss, backward through AOTAutograd, the ordinary optimiser."""

    dtypes = DTYPES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say which part of the compiler's toolchain is missing."""
        return missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap forward and loss; torch compiles them at the first call."""
        model = problem.model()
        # One shape per process, so a recompile would be a mistake: see `measuring.probes.assert_compiled_once`.
        forward_loss = torch.compile(problem.forward_loss(model), fullgraph=True, dynamic=False)
        return LoopUpdates(model, forward_loss, problem.learning_rate)
