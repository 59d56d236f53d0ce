"""What a proof proves: which mistakes the gate catches, which train anyway, and where the lesson's claim lies."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.plan.proof import FINITE_DIFFERENCES, LESSON_ACCURACY, LESSON_LOSS, TRUTH, Kind

Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Proof:
    """What the table `mistakes` says; each row as the table has it.

    wrong: mistakes that were looked at. missed: those that the gate did not catch on every seed. anyway: those that
    meet the targets all the same. right: engines that make no mistake. flagged: those of them that the gate did not
    let through on every seed. oldest: finite differences. unfinished: whatever was not looked at, but for what cannot
    be done here. nearest: the mistake that ends nearest to the lesson's claim of gradients by hand, or None.
    """

    wrong: tuple[Row, ...]
    missed: tuple[Row, ...]
    anyway: tuple[Row, ...]
    right: tuple[Row, ...]
    flagged: tuple[Row, ...]
    oldest: tuple[Row, ...]
    unfinished: tuple[Row, ...]
    nearest: Row | None

    @property
    def holds(self) -> bool:
        """Whether every mistake is caught on every seed and no right engine flagged on any."""
        return bool(self.wrong) and not (self.missed or self.flagged or self.unfinished)


def proven(mistakes: pd.DataFrame) -> Proof:
    """Say what a table `mistakes` proves."""
    rows = mistakes.to_dict("records")
    done = [row for row in rows if row["outcome"] == "ok"]
    wrong = tuple(row for row in done if row["kind"] == Kind.MISTAKE)
    right = tuple(row for row in done if row["kind"] == Kind.RIGHT)
    return Proof(
        wrong=wrong,
        missed=tuple(row for row in wrong if row["caught_seeds"] < row["gate_seeds"]),
        anyway=tuple(row for row in wrong if row["trains_anyway"] == "yes"),
        right=right,
        flagged=tuple(row for row in right if row["caught_seeds"]),
        oldest=tuple(row for row in done if row["engine"] == FINITE_DIFFERENCES),
        unfinished=tuple(row for row in rows if row["outcome"] not in ("ok", "unsupported")),
        nearest=min((row for row in wrong if math.isfinite(row["loss_p50"])), key=_from_the_lesson, default=None),
    )


def _from_the_lesson(row: Row) -> float:
    """Return how far an ending is from the lesson's: a loss twice as large is as far as an accuracy off by 0.1."""
    loss, accuracy = max(float(row["loss_p50"]), 1e-300), float(row["accuracy_p50"])
    return abs(math.log2(loss / LESSON_LOSS)) + abs(accuracy - LESSON_ACCURACY) / 0.1


def depths(epochs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the epochs of one and of two hidden layers by autograd at batch 100, from a table `epochs`; or None."""
    of_truth = epochs[(epochs["engine"] == TRUTH) & (epochs["batch_size"] == 100)]
    one, two = (of_truth[of_truth["workload"] == name].sort_values("epoch") for name in ("line", "line_deep"))
    return None if one.empty or two.empty else (one, two)
