"""How all seeds of a case stand together after each epoch of their training."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.measuring.sampling import quantile_of

if TYPE_CHECKING:
    from harness.training.convergence import Epoch

# Of a training of more epochs so many are kept: a curve has no more to show.
MOST_EPOCHS = 100


class Curve:
    """Takes in one seed after the other; converged(loss, accuracy): whether a seed that stands so has."""

    def __init__(self, converged: Callable[[float, float], bool]) -> None:
        self._converged = converged
        self._stands: dict[int, list[tuple[float, float]]] = defaultdict(list)

    def add(self, epochs: Sequence["Epoch"]) -> None:
        """Take in how one seed stood after each of its epochs; all seeds have as many."""
        every = max(1, math.ceil(len(epochs) / MOST_EPOCHS))
        for epoch in epochs:
            if epoch.number % every == 0 or epoch.number == len(epochs):
                self._stands[epoch.number].append((epoch.loss, epoch.accuracy))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each epoch, in the words of the table `epochs`; None where a loss is no finite number."""
        return [self._row(number, stands) for number, stands in sorted(self._stands.items())]

    def _row(self, number: int, stands: Sequence[tuple[float, float]]) -> dict[str, Any]:
        # A loss that is no number is worse than any number.
        losses = sorted(loss if math.isfinite(loss) else math.inf for loss, _ in stands)
        return {
            "epoch": number,
            "seeds": len(stands),
            **{f"loss_p{percent:02}": _quantile(losses, percent / 100) for percent in (5, 50, 95)},
            "accuracy_p50": quantile_of([accuracy if accuracy >= 0 else 0.0 for _, accuracy in stands], 0.5),
            "converged_share": sum(self._converged(*stand) for stand in stands) / len(stands),
        }


def _quantile(ordered: Sequence[float], quantile: float) -> float | None:
    if not math.isfinite(ordered[-1]):  # between a number and none there is nothing
        value = ordered[math.ceil(quantile * (len(ordered) - 1))]
        return value if math.isfinite(value) else None
    return quantile_of(ordered, quantile)
