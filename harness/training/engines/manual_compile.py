"""Gradients derived by hand, the whole update compiled: what the compiler makes of a graph without autograd."""

import torch

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.manual_step import manual_step
from harness.training.rules import missing_rule
from harness.training.steps import StepUpdates
from harness.training.toolchain import missing_toolchain


class ManualCompile:
    """The very function that `manual_naive` runs, under `torch.compile`."""

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Name the first layer or loss that no rule was derived for, or what the compiler lacks."""
        return missing_rule(problem) or missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap the update; torch compiles it at the first call."""
        model = problem.model()
        return StepUpdates(model, torch.compile(manual_step(problem, model), fullgraph=True, dynamic=False))
