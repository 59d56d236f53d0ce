"""The compiled update in the modes of `torch.compile` that replay it as a CUDA graph, kept by the compiler itself."""

import torch
from torch import Tensor, nn

from harness.plan.case import Case
from harness.plan.outcome import CaseEnded, Outcome
from harness.training.capture import WARM_UPS, needs_cuda
from harness.training.contract import Problem, Updates
from harness.training.engines.compile_step import CompileStep
from harness.training.module_updates import restored
from harness.training.steps import Step, StepUpdates, autograd_step, whole_graph


class CompileReduceOverhead(CompileStep):
    """`compile_step` with `mode="reduce-overhead"`: one line for who has a compiled step already."""

    mode = "reduce-overhead"

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        """Say that there is no GPU, or which part of the compiler's toolchain is missing."""
        return needs_cuda(case) or super().unsupported(problem, case)

    def prepare(self, problem: Problem, steps: int) -> Updates:  # noqa: ARG002
        """Wrap the update; torch compiles and captures it at the first call."""
        model = problem.model()
        return TreeUpdates(model, whole_graph(autograd_step(problem, model), self.mode))


class CompileMaxAutotune(CompileReduceOverhead):
    """The same with `mode="max-autotune"`: matrix products are tried in several ways first, for minutes."""

    mode = "max-autotune"


class TreeUpdates(StepUpdates):
    """Calls a compiled update that torch replays from its trees of CUDA graphs."""

    def __init__(self, model: nn.Module, update: Step) -> None:
        def call(inputs: Tensor, targets: Tensor) -> Tensor:
            # Else the losses of a call, still held, would be taken for outputs that the next update needs.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return update(inputs, targets).clone()  # the next replay overwrites it

        super().__init__(model, call)
        self._captured = False

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make one update per batch; inputs [steps, batch, features], returns losses [steps].

        Raises CaseEnded (`unsupported`) at the first call where torch does not capture the update.
        """
        if not self._captured:
            self._capture(inputs[0], targets[0])
        return super().__call__(inputs, targets)

    def _capture(self, batch: Tensor, target: Tensor) -> None:
        """Let torch compile, warm up and record; the weights are left as they were."""
        with restored(self):
            for _ in range(WARM_UPS):
                self._update(batch, target)
        # torch falls back to plain kernels with no more than a line in its log.
        counted = torch._dynamo.utils.counters["inductor"]
        if counted["cudagraph_skips"] or not counted["cudagraph_recorded_non_static_inputs"]:
            raise CaseEnded(
                Outcome.UNSUPPORTED, "torch does not replay this update as a CUDA graph; its log above says why"
            )
        self._captured = True
