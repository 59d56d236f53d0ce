"""Many thin layers: the line of the lesson learnt by eight hidden layers of 16 tanh units."""

import torch
from torch import Tensor, nn

from harness.plan.targets import ConvergenceTargets
from harness.training.workloads.line import NOISE, Line

LAYERS, HIDDEN = 8, 16
UPDATES = 25  # in an epoch


class TanhDeep(Line):
    """25 batches of points x in [-1, 1], whatever the batch size, 20 epochs of SGD at 0.02, mean squared error.

    Nine matrix products of next to no work, one after the other: what an update costs is the calls it takes. Signals
    fade on their way through so many layers, so that training stands still for some 200 updates, and then learns.
    """

    learning_rate = 0.02
    # Seeds 0–63: all converge at batch 10, 100 and 1000, by epoch 14, Wilson from 0.94; median losses 0.031, 0.024 and
    # 0.023, the largest 0.099; median accuracy at least 0.999, the smallest 0.929.
    targets = ConvergenceTargets(
        max_loss=0.1,
        min_accuracy=0.9,
        min_converged_share=0.85,
        max_median_loss=0.05,
        min_median_accuracy=0.95,
    )

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the generator is seeded
        """Return x [points, 1] and 2x + 1 + 0.1·N(0, 1) [points, 1]."""
        inputs = torch.linspace(-1, 1, UPDATES * batch_size).unsqueeze(1)
        return inputs, 2 * inputs + 1 + NOISE * torch.randn(inputs.shape)

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the network with torch's own initialisation."""
        layers: list[nn.Module] = []
        for width in (1, *[HIDDEN] * (LAYERS - 1)):
            layers += [nn.Linear(width, HIDDEN), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, 1))
