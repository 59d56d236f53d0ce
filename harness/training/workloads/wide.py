"""Enough work for several ranks: ten classes told apart by a 256-1024-1024-10 ReLU network."""

import torch
from torch import Tensor, nn

from harness.plan.targets import ConvergenceTargets

FEATURES, HIDDEN, CLASSES = 256, 1024, 10
POINTS = 4096
APART = 6.0  # from a centre to the origin, where a point is off by 1 in each of 256 directions


class Wide:
    """4,096 points (four batches where that is more) around ten centres, 5 epochs of SGD at 0.3, cross-entropy.

    1.3 million weights: an update at batch 1024 is 8 billion floating-point operations, and 5 MB of gradients go from
    rank to rank. Not in the standard sweep; take a few seeds.
    """

    loss = nn.CrossEntropyLoss()
    learning_rate = 0.3
    epochs = 5
    # Seeds 0–15 at batch 1024: all converge, losses 0.100 to 0.112, accuracy at least 0.999; four seeds can meet them.
    targets = ConvergenceTargets(
        max_loss=0.3,
        min_accuracy=0.98,
        min_converged_share=0.5,
        max_median_loss=0.2,
        min_median_accuracy=0.98,
    )

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the generator is seeded
        """Return points [points, 256] of unit variance around their class's centre, and classes [points], int64."""
        count = max(POINTS, 4 * batch_size)
        centres = APART * nn.functional.normalize(torch.randn(CLASSES, FEATURES))
        classes = torch.randint(CLASSES, (count,))
        return centres[classes] + torch.randn(count, FEATURES), classes

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the network with torch's own initialisation."""
        return nn.Sequential(
            nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        )

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of points whose class has the largest output, 0-d, 0 to 1."""
        return (outputs.argmax(1) == targets).float().mean()
