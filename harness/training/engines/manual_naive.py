"""Gradients derived by hand as a lesson writes them: activations are kept, every gradient is a new tensor."""

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.manual_step import manual_step
from harness.training.rules import missing_rule
from harness.training.steps import StepUpdates


class ManualNaive:
    """The derivation of `manual_step`, run as it stands."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Name the first layer or loss that no rule was derived for."""
        return missing_rule(problem)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Take a copy of the model."""
        model = problem.model()
        return StepUpdates(model, manual_step(problem, model))
