"""Enough work for several ranks: ten classes told apart by a 256-1024-1024-10 ReLU network."""

import torch
from torch import Tensor, nn

from harness.plan.targets import ConvergenceTargets

CLASSES = 10


class Medium:
    """4,096 points (four batches where that is more) around ten centres, 5 epochs of SGD at 0.3, cross-entropy.

    1.3 million weights: an update at batch 1024 is 8 billion floating-point operations, and 5 MB of gradients go from
    rank to rank. Not in the standard sweep; take a few seeds.
    """

    features, hidden = 256, 1024
    points = 4096
    batches = 4  # at least, in an epoch
    apart = 6.0  # from a centre to the origin, where a point is off by 1 in each of 256 directions

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
        """Return points [points, features] of unit variance around their class's centre, and classes [points]."""
        count = max(self.points, self.batches * batch_size)
        centres = self.apart * nn.functional.normalize(torch.randn(CLASSES, self.features))
        classes = torch.randint(CLASSES, (count,))
        return centres[classes] + torch.randn(count, self.features), classes

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the network with torch's own initialisation."""
        return nn.Sequential(
            nn.Linear(self.features, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, CLASSES),
        )

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of points whose class has the largest output, 0-d, 0 to 1."""
        return (outputs.argmax(1) == targets).float().mean()
