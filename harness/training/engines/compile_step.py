"""The whole update – forward, loss, backward and SGD – in one compiled graph."""

import torch

from harness.plan.case import Case
from harness.plan.catalogue import DTYPES
from harness.training.contract import Problem, Updates
from harness.training.steps import StepUpdates, autograd_step, whole_graph
from harness.training.toolchain import missing_toolchain


class CompileStep:
    """`torch.autograd.grad` traced into the graph, the SGD update written out (an optimiser would break the graph)."""

    dtypes = DTYPES

    def unsupported(self, problem: Problem, case: Case) -> str | None:  # noqa: ARG002
        """Say which part of the compiler's toolchain is missing."""
        if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
            return f"torch {torch.__version__} cannot trace autograd into a graph; 2.11 and newer can"
        return missing_toolchain(case.device)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap the update; torch compiles it at the first call."""
        model = problem.model()
        return StepUpdates(model, whole_graph(autograd_step(problem, model)))
