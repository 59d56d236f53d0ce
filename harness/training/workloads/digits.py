"""Real data: hand-written digits of 8 × 8 pixels, told apart by a 64-32-10 ReLU network, judged on digits held out."""

import functools

import torch
from torch import Tensor, nn

from harness.plan.outcome import CaseEnded, Outcome
from harness.plan.targets import ConvergenceTargets

PIXELS, HIDDEN, CLASSES = 64, 32, 10
WHITE = 16  # the largest value of a pixel
TRAINED_ON = 1500  # of 1,797 points; the other 297 are held out
UPDATES = 10  # in an epoch, at least


class Digits:
    """The digits that ship with scikit-learn, 1,500 to train on and 297 held out, 20 epochs of SGD, cross-entropy.

    Which are held out is always the same; a seed draws weights and shuffles. An epoch has at least ten updates: above
    batch 150 the points are repeated. Accuracy is of the points held out, loss of those trained on.
    """

    loss = nn.CrossEntropyLoss()
    learning_rate = 0.5
    epochs = 20
    # TODO figures
    targets = ConvergenceTargets(
        max_loss=0.3,
        min_accuracy=0.9,
        min_converged_share=0.9,
        max_median_loss=0.2,
        min_median_accuracy=0.92,
    )

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same for every seed
        """Return pixels [points, 64] from 0 to 1 and which digit each is [points], int64."""
        pixels, digits = _in_fixed_order()
        again = torch.arange(max(TRAINED_ON, UPDATES * batch_size)) % TRAINED_ON
        return pixels[again], digits[again]

    def held_out(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return pixels [297, 64] and digits [297] that no update sees."""
        pixels, digits = _in_fixed_order()
        return pixels[TRAINED_ON:], digits[TRAINED_ON:]

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the network with torch's own initialisation."""
        return nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of points whose digit has the largest output, 0-d, 0 to 1."""
        return (outputs.argmax(1) == targets).float().mean()


@functools.cache
def _in_fixed_order() -> tuple[Tensor, Tensor]:
    """Return pixels [1797, 64] and digits [1797], shuffled once: the file is sorted by who wrote them.

    Raises CaseEnded (`unsupported`) where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        reason = "the digits are in scikit-learn, which is not installed: pip install 'gradient-harness[digits]'"
        raise CaseEnded(Outcome.UNSUPPORTED, reason) from missing
    from numpy.random import RandomState

    pixels, digits = load_digits(return_X_y=True)
    # Not torch's generator, which is the seed's; numpy keeps this one as it is for ever.
    order = RandomState(0).permutation(len(digits))
    return torch.from_numpy(pixels[order]).float() / WHITE, torch.from_numpy(digits[order]).long()
