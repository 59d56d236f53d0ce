"""The ordinary loop with torch's fused optimiser: all weights are updated by one kernel."""

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import LoopUpdates


class AutogradFused:
    """`autograd` with `torch.optim.SGD(fused=True)`, and nothing else changed."""

    dtypes = DTYPES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Every model and loss is supported."""
        return None

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Make the optimiser."""
        model = problem.model()
        return LoopUpdates(model, problem.forward_loss(model), problem.learning_rate, fused=True)
