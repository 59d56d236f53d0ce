"""Many thin layers: a sine learnt by a network of eight hidden layers of 16 tanh units."""

import itertools

import torch
from torch import Tensor, nn

from harness.plan.targets import ConvergenceTargets

LAYERS, HIDDEN = 8, 16
UPDATES = 20  # in an epoch, at least
POINTS = 100
NOISE = 0.1
TOLERANCE = 0.25  # an eighth of the targets' range, -1 to 1


class TanhDeep:
    """y = sin 3x with noise, twenty batches of points x in [-1, 1], 20 epochs of SGD, mean squared error.

    Nine matrix products of next to no work, one after the other: what an update costs is the calls it takes.
    """

    loss = nn.MSELoss()
    learning_rate = 0.05
    epochs = 20
    # TODO figures
    targets = ConvergenceTargets(
        max_loss=0.1,
        min_accuracy=0.9,
        min_converged_share=0.75,
        max_median_loss=0.05,
        min_median_accuracy=0.9,
    )

    def data(self, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the generator is seeded
        """Return x [points, 1] and sin 3x + 0.1·N(0, 1) [points, 1]."""
        inputs = torch.linspace(-1, 1, max(POINTS, UPDATES * batch_size)).unsqueeze(1)
        return inputs, (3 * inputs).sin() + NOISE * torch.randn(inputs.shape)

    def model(self, seed: int) -> nn.Module:  # noqa: ARG002 - the generator is seeded
        """Return the network, its weights drawn so that signals neither die nor saturate on their way (Glorot)."""
        widths = [1, *[HIDDEN] * LAYERS]
        layers: list[nn.Module] = []
        for width, height in itertools.pairwise(widths):
            layers += [nn.Linear(width, height), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, 1))

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the share of points predicted within ±0.25, 0-d, 0 to 1."""
        return ((outputs - targets).abs() <= TOLERANCE).float().mean()
