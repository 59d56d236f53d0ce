"""What the errors of many updates have in common: rounding averages out, a step that is too long does not."""

from collections.abc import Mapping

from torch import Tensor

from harness.plan.outcome import CaseEnded, Outcome
from harness.training.contract import Problem
from harness.training.reference import Expected
from harness.training.tolerances import TOLERANCES


class Together:
    """Adds up the errors of updates along the reference's own steps, and what the elementwise limits allow there.

    In bfloat16 a single weight may be off by a few percent of its step for no other reason than rounding. So a learning
    rate that is off by a few percent is within every limit, update by update, and shows here.
    """

    def __init__(self) -> None:
        self._error = self._limit = self._steps = 0.0
        self._updates = 0

    def add(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], expected: Expected) -> None:
        """Add an update that was made from the weights `before` and ended with `after`."""
        self._updates += 1
        for name, wanted in expected.parameters.items():
            step = wanted - before[name].double()
            self._error += ((after[name].double() - wanted) * step).sum().item()
            self._limit += (expected.limits[name] * step.abs()).sum().item()
            self._steps += step.square().sum().item()

    def check(self, problem: Problem) -> float:
        """Return the error as a share of its limit; raises CaseEnded (`wrong_gradient`) where it is above 1."""
        tolerance = TOLERANCES[problem.precision]
        limit = tolerance.length * self._steps + tolerance.together * self._limit
        if not abs(self._error) <= limit:
            raise CaseEnded(
                Outcome.WRONG_GRADIENT,
                f"{self._updates} updates together: steps are {1 + self._error / self._steps:.4g} times as long as the "
                f"float64 reference's: off by {abs(self._error) / self._steps:.1e}, limit {limit / self._steps:.1e}",
            )
        return abs(self._error) / limit if limit else 0.0
