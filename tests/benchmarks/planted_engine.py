"""The engine `manual`, but slower by a known share: it burns time after every call. `ab.py` changes the share."""

import time
from collections.abc import Mapping

from torch import Tensor

from harness.plan.case import Case
from harness.training.contract import Problem, Updates
from harness.training.engines.manual import Manual

BURNT = 0.0


class Planted(Manual):
    """By hand, with a brake."""

    def prepare(self, problem: Problem, steps: int) -> "Braked":
        return Braked(super().prepare(problem, steps))

    def unsupported(self, problem: Problem, case: Case) -> str | None:
        return super().unsupported(problem, case)


class Braked:
    """Updates that take longer by the share BURNT."""

    def __init__(self, inner: Updates) -> None:
        self._inner = inner

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        self._inner.load(parameters)

    def parameters(self) -> dict[str, Tensor]:
        return self._inner.parameters()

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        start = time.perf_counter_ns()
        losses = self._inner(inputs, targets)
        taken = time.perf_counter_ns() - start
        end = start + taken * (1 + BURNT)
        while time.perf_counter_ns() < end:
            pass
        return losses
