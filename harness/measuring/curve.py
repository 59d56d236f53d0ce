"""How all seeds of a case stand together after each epoch of their training."""

import math
from array import array
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
        # Loss and accuracy in turn, as numbers alone: a hundred thousand seeds are some.
        self._stands: dict[int, array[float]] = defaultdict(lambda: array("d"))

    def add(self, epochs: Sequence["Epoch"]) -> None:
        """Take in how one seed stood after each of its epochs; all seeds have as many."""
        every = max(1, math.ceil(len(epochs) / MOST_EPOCHS))
        for epoch in epochs:
            if epoch.number % every == 0 or epoch.number == len(epochs):
                self._stands[epoch.number].extend((epoch.loss, epoch.accuracy))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each epoch, in the words of the table `epochs`; None where a loss is no finite number."""
        return [self._row(number, values[::2], values[1::2]) for number, values in sorted(self._stands.items())]

    def _row(self, number: int, stood: Sequence[float], accuracies: Sequence[float]) -> dict[str, Any]:
        # A loss that is no number is worse than any number.
        losses = sorted(loss if math.isfinite(loss) else math.inf for loss in stood)
        return {
            "epoch": number,
            "seeds": len(losses),
            **{f"loss_p{percent:02}": _quantile(losses, percent / 100) for percent in (5, 50, 95)},
            "accuracy_p50": quantile_of([accuracy if accuracy >= 0 else 0.0 for accuracy in accuracies], 0.5),
            "converged_share": sum(map(self._converged, stood, accuracies)) / len(losses),
        }


def _quantile(ordered: Sequence[float], quantile: float) -> float | None:
    if not math.isfinite(ordered[-1]):  # between a number and none there is nothing
        value = ordered[math.ceil(quantile * (len(ordered) - 1))]
        return value if math.isfinite(value) else None
    return quantile_of(ordered, quantile)
