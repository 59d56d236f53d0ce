import math

import pytest

from harness.measuring.curve import MOST_EPOCHS, Curve
from harness.tables.build import over_seeds
from harness.training.convergence import Epoch


def converged(loss: float, accuracy: float) -> bool:
    return loss < 0.1 and accuracy > 0.9


def curve(*seeds: list[tuple[float, float]]) -> list[dict[str, object]]:
    """Of seeds, each with its losses and accuracies by epoch."""
    found = Curve(converged)
    for stands in seeds:
        found.add([Epoch(number, 10 * number, *stand, math.nan) for number, stand in enumerate(stands, start=1)])
    return found.rows()


def test_each_epoch_has_what_a_summary_says_of_the_end():
    losses = [[(0.5 / epoch + 0.01 * seed, 0.85 + 0.02 * epoch) for epoch in range(1, 7)] for seed in range(5)]
    rows = curve(*losses)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for number, row in enumerate(rows):
        stands = [seed[number] for seed in losses]
        told = over_seeds(
            [{"loss": loss, "accuracy": accuracy, "converged": converged(loss, accuracy)} for loss, accuracy in stands]
        )
        assert row == {"epoch": number + 1, **{name: pytest.approx(told[name]) for name in row if name != "epoch"}}
    assert rows[-1]["converged_share"] == 0.4


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_worse_than_any_number(lost):
    [row] = curve([(0.1, 0.9)], [(0.2, 0.8)], [(lost, math.nan)])
    assert (row["loss_p05"], row["loss_p50"], row["loss_p95"]) == (0.2, 0.2, None)
    assert row["accuracy_p50"] == 0.8
    assert row["converged_share"] == 0


@pytest.mark.parametrize("epochs", [1, 99, 100, 101, 199, 200, 995, 1000, 12345])
def test_of_a_long_training_a_hundred_epochs_are_kept_and_the_last_of_them(epochs):
    rows = curve([(1.0, 0.5)] * epochs, [(2.0, 0.5)] * epochs)
    assert min(epochs, MOST_EPOCHS // 2) <= len(rows) <= MOST_EPOCHS
    assert rows[-1]["epoch"] == epochs
    assert {row["seeds"] for row in rows} == {2}


def test_without_seeds_there_is_nothing():
    assert Curve(converged).rows() == []
