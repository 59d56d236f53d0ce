"""Whole updates as raw CUDA graphs, many per launch: what remains when nobody waits for Python any more."""

from typing import Any

from harness.plan.case import Case
from harness.training.capture import CapturedUpdates, needs_cuda
from harness.training.contract import Problem, Updates
from harness.training.engines.autograd import Autograd
from harness.training.engines.compile_step import CompileStep
from harness.training.engines.manual import Manual
from harness.training.steps import StepUpdates, autograd_step


class _Eager(Autograd):
    """Autograd without an optimiser: a function that can be captured."""

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        model = problem.model()
        return StepUpdates(model, autograd_step(problem, model))


class _CudaGraph:
    """Captures the updates of another engine."""

    engine: Any

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Say that there is no GPU, or why the captured engine cannot do this case."""
        reason: str | None = needs_cuda(case) or self.engine().unsupported(problem, case)
        return reason

    def prepare(self, problem: Problem, steps: int) -> Updates:
        """Prepare the engine; it is captured at the first call, `steps` updates per replay."""
        return CapturedUpdates(self.engine().prepare(problem, steps), steps)


class CudaGraphManual(_CudaGraph):
    """The rules of `manual`, in place."""

    engine = Manual
    dtypes = Manual.dtypes


class CudaGraphAutograd(_CudaGraph):
    """Forward, `torch.autograd.grad` and the update, eager."""

    engine = _Eager
    dtypes = _Eager.dtypes


class CudaGraphCompile(_CudaGraph):
    """The compiled update of `compile_step`."""

    engine = CompileStep
    dtypes = CompileStep.dtypes
