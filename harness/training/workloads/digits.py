"""Real data: hand-written digits of 8 × 8 pixels, told apart by a 64-32-10 ReLU network, judged on digits held out."""

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from harness.plan.outcome import CaseEnded, Outcome
from harness.plan.targets import ConvergenceTargets

PIXELS, HIDDEN, CLASSES = 64, 32, 10
WHITE = 16  # the largest value of a pixel
TRAINED_ON = 1500  # of 1,797 points; the other 297 are held out
UPDATES = 10  # in an epoch, at least


class Digits:
    """The digits that ship with scikit-learn: 1,500 to train on, 297 held out; 20 epochs of SGD at 0.5, cross-entropy.

    Which are held out is always the same; a seed draws weights and shuffles. An epoch has at least ten updates: above
    batch 150 the points are repeated. Accuracy is of the points held out, loss of those trained on.
    """

    loss = nn.CrossEntropyLoss()
    learning_rate = 0.5
    epochs = 20
    # Seeds 0–63: all converge at batch 10, 32, 100 and 1000, Wilson from 0.94; median losses 0.003, 0.029, 0.089 and
    # 0.114, the largest 0.126; median accuracies 0.983, 0.980, 0.976 and 0.973, the smallest 0.956.
    targets = ConvergenceTargets(
        max_loss=0.2,
        min_accuracy=0.9,
        min_converged_share=0.85,
        max_median_loss=0.15,
        min_median_accuracy=0.95,
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

    It is read as `sklearn.datasets.load_digits` reads it, without importing scikit-learn: that takes seconds, 100 MB
    and a thread, in a process that is timed. Raises CaseEnded (`unsupported`) where it is not installed.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        reason = "the digits are in scikit-learn, which is not installed: pip install -e '.[digits]'"
        raise CaseEnded(Outcome.UNSUPPORTED, reason)
    rows = np.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    # Not by torch's generator, which is the seed's; numpy keeps this one as it is for ever.
    points = torch.from_numpy(np.random.RandomState(0).permutation(rows))
    return points[:, :PIXELS].float() / WHITE, points[:, PIXELS].long()
