"""One update by gradients derived by hand, as a lesson writes it: every value is a tensor of its own.

`rules.py` has the same derivations in place, as somebody writes them who is after speed. Here x are a layer's inputs,
y its outputs, both [batch, features] and kept on the way forward; δ is the gradient of the loss by y. Nothing here
touches autograd.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.training.contract import Problem
from harness.training.layers import chain
from harness.training.steps import Step


def manual_step(problem: Problem, model: nn.Module) -> Step:
    """Return one SGD update of a model, by hand; its layers and loss must be known to `rules.missing_rule`."""
    model.requires_grad_(requires_grad=False)
    layers = [LAYERS[type(layer)](layer) for _, layer in chain(model)]
    loss_and_gradient = LOSSES[type(problem.loss)]
    learning_rate = problem.learning_rate

    def update(inputs: Tensor, targets: Tensor) -> Tensor:
        values = [inputs]
        for layer in layers:
            values.append(layer.forward(values[-1]))
        loss, delta = loss_and_gradient(values[-1], targets)
        for index in reversed(range(len(layers))):
            layer, x, y = layers[index], values[index], values[index + 1]
            gradients = layer.weight_gradients(delta, x)
            if index:  # nobody asks for the gradient by the data
                delta = layer.input_gradient(delta, x, y)  # before the weights change
            for weight, gradient in zip(layer.weights, gradients, strict=True):
                weight -= learning_rate * gradient
        return loss

    return update


class _Layer:
    """A layer without weights; whoever inherits has a forward and its gradient."""

    weights: tuple[Tensor, ...] = ()

    def __init__(self, layer: nn.Module) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def weight_gradients(self, delta: Tensor, x: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        return ()

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


class _Linear(_Layer):
    """y = x Wᵀ + b, hence ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ, ∂L/∂x = δ W.

    x [batch, in], W [out, in], b [out], y and δ [batch, out].
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.weights = tuple(layer.parameters())  # W and, where there is one, b

    def forward(self, x: Tensor) -> Tensor:
        weight, *bias = self.weights
        y = x @ weight.t()  # [batch, in] [in, out] -> [batch, out]
        return y + bias[0] if bias else y

    def weight_gradients(self, delta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        gradients = (delta.t() @ x,)  # [out, batch] [batch, in] -> [out, in]
        return (*gradients, delta.sum(0)) if len(self.weights) > 1 else gradients  # the sum: [batch, out] -> [out]

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return delta @ self.weights[0]  # [batch, out] [out, in] -> [batch, in]


class _ReLU(_Layer):
    """y = max(x, 0), hence ∂L/∂x = δ where x > 0, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return delta * (x > 0)


class _Tanh(_Layer):
    """y = tanh x, hence ∂L/∂x = δ (1 - y²)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return delta * (1 - y * y)


class _Sigmoid(_Layer):
    """y = 1 / (1 + e⁻ˣ), hence ∂L/∂x = δ y (1 - y)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        return delta * y * (1 - y)


class _GELU(_Layer):
    """y = x Φ(x) with the normal distribution Φ, hence ∂L/∂x = δ (Φ(x) + x φ(x)), φ(x) = e^(-x²/2) / √(2π)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * _normal_distribution(x)

    def input_gradient(self, delta: Tensor, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return delta * (_normal_distribution(x) + x * density)


def _normal_distribution(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def _mse(y: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L = Σ (y - t)² / N over all N numbers, hence ∂L/∂y = 2 (y - t) / N.

    y, t and the gradient [batch, outputs], L 0-d.
    """
    difference = y - targets
    return (difference * difference).mean(), 2 * difference / difference.numel()


def _cross_entropy(y: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L = mean over points of log Σₖ e^yₖ - y_t, hence ∂L/∂y = (softmax(y) - onehot(t)) / batch.

    y and the gradient [batch, classes], t [batch] of whole numbers, L 0-d.
    """
    batch, classes = y.shape
    log_probability = y - y.logsumexp(1, keepdim=True)  # [batch, classes] - [batch, 1]
    chosen = targets.unsqueeze(1)  # [batch, 1]
    one_hot = chosen == torch.arange(classes, device=y.device)  # [batch, 1] == [classes] -> [batch, classes]
    loss = -log_probability.gather(1, chosen).mean()
    return loss, (log_probability.exp() - one_hot.to(y.dtype)) / batch


LAYERS: Mapping[type[nn.Module], Any] = {
    nn.Linear: _Linear,
    nn.ReLU: _ReLU,
    nn.Tanh: _Tanh,
    nn.Sigmoid: _Sigmoid,
    nn.GELU: _GELU,
}
LOSSES: Mapping[type[nn.Module], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    nn.MSELoss: _mse,
    nn.CrossEntropyLoss: _cross_entropy,
}
