"""The lesson: y = 2x + 1 with noise, learnt by a 1-10-1 ReLU network."""

import torch
from torch import Tensor, nn

from harness.plan.targets import ConvergenceTargets

POINTS = 100
NOISE = 0.1
TOLERANCE = 0.5  # an eighth of the targets' range, -1 to 3


class Line:
    """100 points x in [-1, 1] (as many as a batch where that is more), 20 epochs of SGD at 0.1, mean squared error.

    For a regression, accuracy is the share of points predicted within ±0.5.
    """

    loss = nn.MSELoss()
    learning_rate = 0.1
    epochs = 20
    # Seeds 0–999 at batch 100: 93.2 % converge, median loss 0.020; seeds 0–63: 58 of 64, Wilson from 0.81.
    targets = ConvergenceTargets(
        max_loss=0.1,
        min_accuracy=0.9,
        min_converged_share=0.75,
        max_median_loss=0.05,
        min_median_accuracy=0.9,
    )

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the generator is seeded
        """Return x [points, 1] and 2x + 1 + 0.1·N(0, 1) [points, 1]."""
        inputs = torch.linspace(-1, 1, max(POINTS, batch_size)).unsqueeze(1)
        return inputs, 2 * inputs + 1 + NOISE * torch.randn(inputs.shape)

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the 1-10-1 ReLU network with torch's own initialisation."""
        return nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, 1))

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of points predicted within ±0.5, 0-d, 0 to 1."""
        return ((outputs - targets).abs() <= TOLERANCE).float().mean()
