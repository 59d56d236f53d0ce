"""A workload and an engine of one's own: which of two rings a point lies on, trained without an optimiser."""

import math

import torch
from torch import nn

from harness.plan.targets import ConvergenceTargets


class Rings:
    """Points around two rings of radius 1 and 2; half as many again are held out to tell how good the model is."""

    loss = nn.CrossEntropyLoss()
    learning_rate = 0.5  # of plain SGD
    epochs = 20
    # A seed has converged with a loss below 0.2 and more than 95 % of the points held out told apart.
    targets = ConvergenceTargets(
        max_loss=0.2,
        min_accuracy=0.95,
        min_converged_share=0.5,
        max_median_loss=0.1,
        min_median_accuracy=0.97,
    )

    def data(self, batch_size, seed):
        """Return inputs [points, 2] and classes [points]; torch's generator was seeded right before."""
        return _points(max(2000, 20 * batch_size))

    def held_out(self, batch_size, seed):
        """Return points that are never trained on: accuracy is of these. Leave it out, and it is of `data`."""
        return _points(1000)

    def model(self, seed):
        """Return the model: an `nn.Sequential` of Linear, ReLU, Tanh, Sigmoid and GELU is what the gate can check."""
        return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def accuracy(self, outputs, targets):
        """Return the share of points on the ring with the larger output, 0-d."""
        return (outputs.argmax(1) == targets).float().mean()


def _points(count):
    ring = torch.randint(2, (count,))
    radius, angle = 1 + ring + 0.1 * torch.randn(count), 2 * math.pi * torch.rand(count)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), ring


class PlainGrad:
    """`torch.autograd.grad` and one subtraction per weight: what is left of `autograd` without its optimiser."""

    def unsupported(self, problem, case):
        """Return why a case cannot be done, or None."""
        return

    def prepare(self, problem, steps):
        """Compile, allocate: whatever is to be done once."""
        return PlainGradUpdates(problem)


class PlainGradUpdates:
    """The engine made ready for one problem."""

    def __init__(self, problem):
        self._model = problem.model()
        self._loss = problem.forward_loss(self._model)
        self._weights = dict(self._model.named_parameters())
        self._learning_rate = problem.learning_rate

    @torch.no_grad()
    def load(self, parameters):
        """Start again from these weights, by copying them."""
        for name, weight in self._weights.items():
            weight.copy_(parameters[name])

    def parameters(self):
        """Return the weights by name."""
        return {name: weight.detach() for name, weight in self._weights.items()}

    def __call__(self, inputs, targets):
        """Make one update per batch of inputs [steps, batch, features]; return losses [steps]. This is timed."""
        losses = []
        for batch, target in zip(inputs, targets, strict=True):
            loss = self._loss(batch, target)
            gradients = torch.autograd.grad(loss, list(self._weights.values()))
            with torch.no_grad():
                for weight, gradient in zip(self._weights.values(), gradients, strict=True):
                    weight.sub_(gradient, alpha=self._learning_rate)
            losses.append(loss.detach())
        return torch.stack(losses)
